"""Settings: one typed class, read from environment variables or from files of the same name in /run/secrets."""

from functools import cache
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SECRETS_DIR = Path("/run/secrets")  # where container platforms mount secrets


class Settings(BaseSettings):
    """Every setting of every process. The README lists them; a test holds the list to this class."""

    model_config = SettingsConfigDict(env_prefix="", extra="ignore", frozen=True)

    database_url: SecretStr = Field(
        SecretStr("postgresql://ledgermill_owner@127.0.0.1:5432/ledgermill"),
        description="The owner's login: migrations, organizations, keys. Stands in for unset URLs below.",
    )
    worker_database_url: SecretStr | None = Field(None, description="The login of the role ledgermill_worker.")
    api_database_url: SecretStr | None = Field(None, description="The login of the role ledgermill_api.")
    read_only_database_url: SecretStr | None = Field(None, description="The login of the role ledgermill_readonly.")
    broker_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis 6.2 or later, or Valkey, with noeviction."
    )
    db_prepare_threshold: int = Field(
        5, ge=-1, description="Executions before a statement is prepared; -1: never, as PgBouncer before 1.21 needs."
    )
    ledgermill_home: Path = Field(
        Path("~/.ledgermill"), description="Where `ledgermill up` keeps the data and run files of one machine."
    )
    posting_lanes: int = Field(
        0, ge=0, le=1024, description="Queues posting.0 to posting.N-1 beside `posting`; an organization stays on one."
    )
    sweep_every_s: float = Field(3.0, gt=0, description="How often beat looks for accepted jobs that nobody works on.")
    verify_every_s: float = Field(
        600.0, gt=0, description="How often beat checks what was posted since the books were last found clean."
    )
    verify_all_at_hour: int = Field(3, ge=0, le=23, description="The hour, in UTC, in which beat checks all books.")
    verify_time_limit_s: int = Field(
        3600, ge=1, description="A run of verify by beat, and each of its statements, is ended after this long."
    )
    visibility_timeout_s: int = Field(
        30, ge=5, description="After this long, messages that a worker took and did not settle go to another."
    )
    task_time_limit_s: int = Field(20, ge=2, description="A pool child that works longer on one message is ended.")
    wait_s: float = Field(5.0, ge=0, le=60, description="How long a write over HTTP waits for its outcome by default.")
    most_backlog_s: float = Field(
        300.0, gt=0, description="New jobs over HTTP are refused (503) while the oldest due work has waited longer."
    )
    require_idempotency_key: bool = Field(
        False, description="Refuse HTTP journals without a key instead of minting one."
    )
    api_host: str = Field("127.0.0.1", description="Address that the API listens on.")
    api_port: int = Field(8080, ge=1, le=65535, description="Port that the API listens on.")
    most_body_bytes: int = Field(32_000_000, ge=1000, description="The largest request body that the API reads.")
    metrics_key: SecretStr | None = Field(None, description="Bearer key that /metrics asks for; unset: open.")
    log_format: str = Field("json", pattern="^(json|text)$", description="json for machines, text for people.")
    log_level: str = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="The least level that is logged."
    )
    ledgermill_heartbeat_file: Path | None = Field(None, description="File that a worker touches while it is alive.")

    @model_validator(mode="after")
    def _limits_nest(self) -> Self:
        if self.task_time_limit_s >= self.visibility_timeout_s:
            raise ValueError(
                "TASK_TIME_LIMIT_S must be below VISIBILITY_TIMEOUT_S, or running tasks are handed out twice"
            )
        return self

    @property
    def home(self) -> Path:
        return self.ledgermill_home.expanduser().resolve()

    def url_of(self, role: str) -> str:
        """The URL of a role (owner, worker, api, readonly); without one of its own, the owner's."""
        own = {
            "owner": self.database_url,
            "worker": self.worker_database_url,
            "api": self.api_database_url,
            "readonly": self.read_only_database_url,
        }[role]
        return (own or self.database_url).get_secret_value()


def with_login(url: str, *, user: str, password: str) -> str:
    """The same database, as another login."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}"))


@cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings(_secrets_dir=SECRETS_DIR if SECRETS_DIR.is_dir() else None)
