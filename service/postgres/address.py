"""Where PostgreSQL is: whatever libpq understands, as its own connection parameters."""

from collections.abc import Mapping

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from service.errors import InvalidRequest

# A server that is gone without a word must not hold a request for the minutes that TCP would.
_PATIENCE: Mapping[str, str] = {
    "connect_timeout": "3",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    # After a failover only the server that takes writes will do.
    "target_session_attrs": "read-write",
    "application_name": "likeness",
}


def connection_parameters(url: str) -> dict[str, str]:
    """The parameters of libpq that ``url`` gives, and ours where it is silent.

    Raises InvalidRequest, which never shows the URL: it may hold a password.
    """
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    except ProgrammingError:
        raise InvalidRequest(
            "LIKENESS_DATABASE_URL is not an address of PostgreSQL. Write postgresql://USER@HOST:PORT/DATABASE, "
            "with special characters of the password as %XX."
        ) from None
    return {**_PATIENCE, **given}


def shown(url: str) -> str:
    """The address in words, without user and password. Raises InvalidRequest."""
    parameters = connection_parameters(url)
    hosts = parameters.get("host", parameters.get("hostaddr", "the local socket")).split(",")
    ports = parameters.get("port", "5432").split(",")
    ports *= len(hosts) if len(ports) == 1 else 1
    where = ", ".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=False))
    return f"{parameters.get('dbname', parameters.get('user', 'the default database'))} on {where}"
