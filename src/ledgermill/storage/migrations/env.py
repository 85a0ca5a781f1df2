"""Runs the migrations on the connection that `ledgermill.storage.migrations.upgrade` gives."""

from alembic import context

from ledgermill.storage.tables import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
