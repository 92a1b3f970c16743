"""Settings: from flags, then ``LIKENESS_*``, then ``likeness.toml`` in the working folder. Read once, at the root."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from service.errors import InvalidRequest
from service.logs import Format
from service.security.master_key import MasterPlace, place_of

SETTINGS_FILE = "likeness.toml"
_SECRET = ("master_key", "database_url")


def _names(value: object) -> object:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


class Settings(BaseSettings):
    """Everything an operator can choose."""

    model_config = SettingsConfigDict(
        env_prefix="LIKENESS_", toml_file=SETTINGS_FILE, extra="forbid", frozen=True, env_ignore_empty=True
    )

    data_dir: Annotated[Path, Field(description="where bundles and downloads live")] = Path("data")
    bundle: Annotated[str, Field(min_length=1, description="name or folder of the bundle")] = "open"
    also: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(_names),
        Field(description="bundles that are loaded beside it for galleries of theirs; several with commas between"),
    ] = ()
    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 8000
    provider: Annotated[
        Literal["auto", "cpu", "cuda", "tensorrt"],
        Field(description="where networks run; auto is cuda where it works, the others are used or refused"),
    ] = "auto"
    gpu: Annotated[
        str,
        BeforeValidator(lambda given: str(given) if isinstance(given, int) else given),
        Field(pattern=r"^[0-9]{1,3}(,[0-9]{1,3})*$", description="which GPU, as CUDA numbers them; several: 0,1"),
    ] = "0"
    gpu_graphs: Annotated[bool, Field(description="whether runs that come often are captured as CUDA graphs")] = True
    gpu_memory_mib: Annotated[
        int, Field(ge=0, le=1 << 20, description="most that the networks may hold on the GPU; 0: no ceiling")
    ] = 4096
    threads: Annotated[int, Field(ge=0, le=1024, description="threads per network on the CPU; 0: one per core")] = 1
    max_body_bytes: Annotated[int, Field(ge=1024, description="largest request body")] = 32 * 1024 * 1024
    max_pixels: Annotated[int, Field(ge=1024, description="largest photo, in pixels")] = 50_000_000
    min_face_size: Annotated[float, Field(ge=0, description="faces smaller than this, in pixels, are not compared")] = (
        16.0
    )
    max_waiting: Annotated[int, Field(ge=1, description="photos that may wait for a core before 429")] = 128
    keep_crops: Annotated[bool, Field(description="whether the aligned faces of enrolled photos are kept")] = False
    retention_check_s: Annotated[
        float, Field(gt=0, le=86400, description="seconds between looks for persons whose time is up")
    ] = 60.0
    auth: Annotated[bool, Field(description="whether callers need an access key; false on loopback only")] = True
    max_per_client: Annotated[int, Field(ge=0, description="photos of one client in work or waiting; 0: no limit")] = 0
    max_upload_bytes: Annotated[int, Field(ge=1024, description="all request bodies in memory together")] = (
        512 * 1024 * 1024
    )
    request_timeout_s: Annotated[float, Field(gt=0, le=3600, description="longest that a request may take")] = 30.0
    drain_s: Annotated[
        float, Field(ge=0, le=300, description="seconds between SIGTERM, when ready goes 503, and the last connection")
    ] = 1.0
    log_format: Annotated[Format, Field(description="plain lines, or one JSON object a line")] = "text"
    database_url: Annotated[
        SecretStr | None, Field(description="PostgreSQL that holds the galleries; default: a file in the data folder")
    ] = None
    search_in: Annotated[
        Literal["auto", "database", "memory"],
        Field(description="with PostgreSQL, where searches run: there, or in a copy in memory that follows it"),
    ] = "auto"
    search_memory_mib: Annotated[int, Field(ge=0, le=1 << 24, description="most that such copies take together")] = 2048
    hnsw_from: Annotated[
        int, Field(ge=0, description="galleries of so many persons get an index in PostgreSQL; 0: none, all is exact")
    ] = 0
    master_key: Annotated[
        SecretStr | None, Field(description="key of the keys, base64 of 32 bytes; default: a file")
    ] = None
    master_key_command: Annotated[str | None, Field(description="program that prints it, such as a KMS's")] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file, in this order; no .env and no secrets folder."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that networks run on, each once; searches run on the first."""
        return tuple(dict.fromkeys(int(number) for number in self.gpu.split(",")))

    def keys_folder(self) -> Path:
        """Where the keys are: not with the database, whose backups must not hold them."""
        return self.data_dir / "keys"

    def audit_folder(self) -> Path:
        """Where the audit log is."""
        return self.data_dir / "audit"

    def master_place(self) -> MasterPlace:
        """Where the master key comes from."""
        given = self.master_key.get_secret_value() if self.master_key is not None else None
        return place_of(self.keys_folder(), given, self.master_key_command)


def read_settings(**flags: Any) -> Settings:
    """Settings with the given flags on top; a flag that is None was not given.

    Raises:
        InvalidRequest: a value of the wrong type or range, or an unknown name in ``likeness.toml``.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        got = "" if name in _SECRET else f" (got {first.get('input')!r})"
        raise InvalidRequest(f"Setting {name!r}: {first['msg']}{got}.") from error
    except ValueError as error:  # tomllib.TOMLDecodeError
        raise InvalidRequest(f"{SETTINGS_FILE} is not valid TOML: {error}") from error
