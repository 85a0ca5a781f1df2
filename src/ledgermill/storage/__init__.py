"""All SQL: tables, named statements, locks, COPY, migrations."""
