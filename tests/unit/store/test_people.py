import pytest

from capturekit.database import Database
from capturekit.errors import Conflict, Unknown
from capturekit.store import Role, Store, passwords
from capturekit.store.people import IDLE_S, SESSION_S
from tests.unit.store.conftest import Clock

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"


async def test_who_signs_in_is_known_by_the_session(store: Store) -> None:
    ana = await store.people.add("ana", Role.OPERATOR, PASSWORD)

    secret = await store.people.sign_in("ana", PASSWORD)

    assert secret is not None
    principal = await store.people.by_session(secret)
    assert principal is not None
    assert (principal.kind, principal.name, principal.role) == ("person", "ana", Role.OPERATOR)
    assert await store.people.all() == [ana]


async def test_a_wrong_password_and_an_unknown_name_open_nothing(store: Store) -> None:
    await store.people.add("ana", Role.VIEWER, PASSWORD)

    assert await store.people.sign_in("ana", PASSWORD + "x") is None
    assert await store.people.sign_in("bea", PASSWORD) is None
    assert await store.people.by_session("guessed") is None


async def test_neither_password_nor_session_is_stored(sqlite_database: Database) -> None:
    store = Store(sqlite_database)
    await store.people.add("ana", Role.VIEWER, PASSWORD)
    secret = await store.people.sign_in("ana", PASSWORD)
    assert secret is not None

    path = sqlite_database.path
    written = path.read_bytes() + path.with_name(path.name + "-wal").read_bytes()

    assert PASSWORD.encode() not in written
    assert secret.encode() not in written


async def test_a_session_ends_when_it_is_not_used_and_at_last_in_any_case(
    store: Store, clock: Clock
) -> None:
    await store.people.add("ana", Role.VIEWER, PASSWORD)
    idle = await store.people.sign_in("ana", PASSWORD)
    clock.now += IDLE_S
    assert await store.people.by_session(str(idle)) is None

    used = await store.people.sign_in("ana", PASSWORD)
    opened_at = clock.now
    while clock.now + IDLE_S / 2 < opened_at + SESSION_S:
        clock.now += IDLE_S / 2
        assert await store.people.by_session(str(used)) is not None
    clock.now = opened_at + SESSION_S

    assert await store.people.by_session(str(used)) is None


async def test_another_password_ends_all_sessions(store: Store) -> None:
    await store.people.add("ana", Role.VIEWER, PASSWORD)
    secret = await store.people.sign_in("ana", PASSWORD)

    await store.people.set_password("ana", "another password")

    assert await store.people.by_session(str(secret)) is None
    assert await store.people.sign_in("ana", PASSWORD) is None
    assert await store.people.sign_in("ana", "another password") is not None


async def test_who_is_disabled_is_out_at_once_until_that_is_undone(store: Store) -> None:
    await store.people.add("ana", Role.VIEWER, PASSWORD)
    secret = await store.people.sign_in("ana", PASSWORD)

    await store.people.change("ana", is_disabled=True)

    assert await store.people.by_session(str(secret)) is None
    assert await store.people.sign_in("ana", PASSWORD) is None
    await store.people.change("ana", is_disabled=False)
    assert await store.people.by_session(str(secret)) is None
    assert await store.people.sign_in("ana", PASSWORD) is not None


async def test_another_role_counts_for_sessions_that_are_open(store: Store) -> None:
    await store.people.add("ana", Role.VIEWER, PASSWORD)
    secret = await store.people.sign_in("ana", PASSWORD)

    await store.people.change("ana", role=Role.ADMIN)

    principal = await store.people.by_session(str(secret))
    assert principal is not None
    assert principal.role is Role.ADMIN


async def test_signing_out_ends_the_one_session(store: Store) -> None:
    await store.people.add("ana", Role.VIEWER, PASSWORD)
    here = await store.people.sign_in("ana", PASSWORD)
    there = await store.people.sign_in("ana", PASSWORD)
    principal = await store.people.by_session(str(here))
    assert principal is not None

    await store.people.sign_out(principal)

    assert await store.people.by_session(str(here)) is None
    assert await store.people.by_session(str(there)) is not None


async def test_names_are_given_once_and_the_unknown_told(store: Store) -> None:
    await store.people.add("ana", Role.VIEWER, PASSWORD)

    with pytest.raises(Conflict, match="'ana' already"):
        await store.people.add("ana", Role.ADMIN, PASSWORD)
    for call in (store.people.change("bea"), store.people.set_password("bea", PASSWORD)):
        with pytest.raises(Unknown, match="person"):
            await call


@pytest.mark.parametrize("password", ["", "short", "x" * 257])
async def test_a_password_that_is_easily_guessed_is_refused(store: Store, password: str) -> None:
    with pytest.raises(ValueError, match="password has"):
        await store.people.add("ana", Role.VIEWER, password)


def test_a_password_may_be_typed_on_any_keyboard() -> None:
    composed, decomposed = "caf\u00e9 au lait au matin", "cafe\u0301 au lait au matin"

    assert passwords.is_right(decomposed, passwords.hash_of(composed))


def test_a_hash_names_its_parameters_and_has_a_salt_of_its_own() -> None:
    one, other = passwords.hash_of(PASSWORD), passwords.hash_of(PASSWORD)

    assert one.startswith("scrypt$15$8$3$")
    assert one != other


def test_the_hash_for_unknown_names_costs_as_much() -> None:
    assert passwords.OF_NOBODY.split("$")[:4] == passwords.hash_of(PASSWORD).split("$")[:4]
    assert not passwords.is_right(PASSWORD, passwords.OF_NOBODY)
