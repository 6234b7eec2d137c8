"""Prepared statements give what SQLAlchemy's own give, on both engines."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    create_engine,
    func,
    select,
    update,
)

from capturekit.database import Database, prepared
from capturekit.database.prepared import Prepared
from tests.servers_postgres import PostgresServer

metadata = MetaData()
thing = Table(
    "thing",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text),
    Column("size", BigInteger),
    Column("share", Float),
    Column("is_on", Boolean),
    Column("told", JSON(none_as_null=True)),
)

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**53), 2**53)
TOLD = st.recursive(st.none() | st.booleans() | NUMBERS | TEXTS, st.lists)
ROWS = st.fixed_dictionaries(
    {
        "name": st.none() | TEXTS,
        "size": st.none() | NUMBERS,
        "share": st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32),
        "is_on": st.none() | st.booleans(),
        "told": st.none() | st.dictionaries(TEXTS, TOLD) | st.lists(TOLD),
    }
)

INSERT = Prepared(thing.insert().values({one: bindparam(one.name) for one in thing.c}))
BY_ID = select(thing).where(thing.c.id == bindparam("wanted"))
CHANGE = Prepared(
    update(thing)
    .where(thing.c.id == bindparam("wanted"))
    .values(told=bindparam("new", type_=thing.c.told.type), is_on=True, name="fixed")
)
SUM = Prepared(select(func.count(), func.coalesce(func.sum(thing.c.share), 0.0)))


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_extra("postgres"))]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/a.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        yield server.new_database().replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def connection(url: str) -> Iterator[Connection]:
    engine = create_engine(url)
    metadata.create_all(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@given(ROWS, ROWS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_values_go_in_and_come_out_as_by_sqlalchemy(
    connection: Connection, first: dict[str, object], second: dict[str, object]
) -> None:
    with connection.begin() as transaction:
        INSERT.count(connection, id=1, **first)
        INSERT.each(connection, [{"id": 2, **second}])
        connection.execute(thing.insert(), [{"id": 3, **first}, {"id": 4, **second}])
        for ours, theirs in ((1, 3), (2, 4)):
            by_sqlalchemy = [
                connection.execute(BY_ID, {"wanted": wanted}).mappings().one()
                for wanted in (ours, theirs)
            ]
            by_us = [
                Prepared(BY_ID).mapping(connection, wanted=wanted) for wanted in (ours, theirs)
            ]
            told = [{**row, "id": 0} for row in (*by_sqlalchemy, *by_us) if row]
            assert len(told) == 4
            assert all(json.dumps(row) == json.dumps(told[0]) for row in told)
        assert CHANGE.count(connection, wanted=1, new=second["told"]) == 1
        changed = Prepared(BY_ID).mapping(connection, wanted=1)
        assert changed is not None
        assert (changed["told"], changed["is_on"], changed["name"]) == (
            second["told"],
            True,
            "fixed",
        )
        count, total = SUM.first(connection) or (0, None)
        assert (count, type(total)) == (4, float)
        transaction.rollback()


def test_what_is_not_there_is_none(connection: Connection) -> None:
    wanted = Prepared(BY_ID)
    assert wanted.first(connection, wanted=9) is None
    assert wanted.scalar(connection, wanted=9) is None
    assert wanted.mapping(connection, wanted=9) is None
    assert wanted.rows(connection, wanted=9) == []
    assert CHANGE.count(connection, wanted=9, new=None) == 0
    INSERT.each(connection, [])


def test_a_list_of_any_length_cannot_be_prepared(connection: Connection) -> None:
    varying = Prepared(select(thing).where(thing.c.id.in_(bindparam("ids", expanding=True))))
    with pytest.raises(ValueError, match="its length varies"):
        varying.rows(connection, ids=[1])


def test_who_watches_hears_of_each_statement(connection: Connection) -> None:
    heard: list[str] = []

    def watch(sql: str, _values: object) -> None:
        heard.append(sql.split(maxsplit=1)[0])

    prepared.watchers.append(watch)
    try:
        rows = [{**dict.fromkeys(thing.c.keys()), "id": number} for number in (1, 2)]
        INSERT.each(connection, rows)
        SUM.rows(connection)
    finally:
        prepared.watchers.remove(watch)
    assert heard == ["INSERT", "SELECT"]


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with Database(url.replace("+psycopg", "")) as database:
        yield database


@pytest.mark.anyio
async def test_it_is_undone_with_its_transaction_and_its_errors_are_translated(
    database: Database,
) -> None:
    from capturekit.errors import StorageError

    def work(connection: Connection) -> None:
        metadata.create_all(connection)
        INSERT.count(connection, **{**dict.fromkeys(thing.c.keys()), "id": 1})
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(work)
    with pytest.raises(StorageError):
        await database.read(SUM.rows)
