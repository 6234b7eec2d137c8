"""Stock: what there is, why, and what people may say and do about it."""

import hashlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import anyio.to_thread

from capturekit.database import Connection, Database
from capturekit.store import (
    alerts,
    counts,
    exchange,
    forecast,
    history,
    items,
    levels,
    locations,
    lots,
    movements,
    policies,
    proof,
    review,
    runs,
    stock,
)
from capturekit.store.alerts import Alert
from capturekit.store.changes import Key, Rehearsed, StockChange
from capturekit.store.counts import Counts
from capturekit.store.exchange import ExchangeFormat, ImportReport
from capturekit.store.forecast import Forecast
from capturekit.store.history import HistoryLine, HistoryQuery
from capturekit.store.items import Item, ItemEntry, Meaning
from capturekit.store.levels import NewParLevel, ParLevel
from capturekit.store.locations import Location
from capturekit.store.lots import Expiring, Lots
from capturekit.store.movements import Movement, NewMovement
from capturekit.store.page import Page
from capturekit.store.policies import NewPolicy, Policy
from capturekit.store.proof import Proof
from capturekit.store.review import Decision, Proposal
from capturekit.store.schema import lock_ledger
from capturekit.store.stock import ItemSum, StockPage, StockQuery, StockRow, StockSort, Why

T = TypeVar("T")


class Inventory:
    """The ledger of stock. Whatever is said, stock stays what the facts say it is.

    A command returns what it changed in stock, once that is durable; said again it changes
    nothing.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def stock(
        self,
        *,
        location: str | None = None,
        item: str | None = None,
        text: str | None = None,
        sort: StockSort | str = StockSort.NAME,
        cursor: str | None = None,
        limit: int = 100,
        as_of: float | None = None,
    ) -> StockPage:
        """The stock list; ``cursor`` is the ``next`` of the page before, in the same order.

        ``location`` includes those below it; ``text`` is part of a name, or a whole code.
        ``as_of`` is a time in seconds since 1970, UTC: what was there then, as far as is known
        today; it folds the rows that it looks at anew, some 10 µs each. Raises ValueError for
        a cursor that is none.
        """
        query = StockQuery(location, item, text, StockSort(sort), cursor, limit, as_of)
        return await self._database.read(partial(stock.page, query=query))

    async def all_stock(
        self, *, location: str | None = None, as_of: float | None = None
    ) -> AsyncIterator[StockRow]:
        """The whole list by name, page after page: what changes meanwhile may be missed."""
        cursor: str | None = None
        while True:
            page = await self.stock(location=location, cursor=cursor, limit=500, as_of=as_of)
            for row in page.rows:
                yield row
            if page.next is None:
                return
            cursor = page.next

    async def sums(
        self, location: str | None = None, *, as_of: float | None = None
    ) -> list[ItemSum]:
        """Every item's sum over a location and those below it, or over all; by name."""
        query = StockQuery(location, as_of=as_of)
        return await self._database.read(partial(stock.sums, query=query))

    async def counts(self) -> Counts:
        """How much the ledger holds."""
        return await self._database.read(counts.count)

    async def why(self, item: str, location: str, *, as_of: float | None = None) -> Why:
        """Where the figure comes from: count, run, observations, movements. Raises Unknown."""
        return await self._database.read(
            partial(stock.why, item_id=item, location_id=location, as_of=as_of)
        )

    async def history(
        self,
        *,
        item: str | None = None,
        location: str | None = None,
        since: float | None = None,
        until: float | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[HistoryLine]:
        """Lines of the ledger, the last written first, with who or what caused each.

        ``location`` is that place alone, without those below it. ``since`` and ``until`` are
        when lines were written, in seconds since 1970, UTC. Raises ValueError for a cursor
        that is none.
        """
        query = HistoryQuery(item, location, since, until, cursor, limit)
        return await self._database.read(partial(history.page, query=query))

    async def move(self, new: NewMovement) -> tuple[Movement, list[StockChange]]:
        """Do what a person says was done.

        A key that is known answers with the movement it names and does nothing. Raises
        Unknown for the item, location or lot, ValueError for a time to come, Conflict when a
        location would hold less than nothing, the key names another movement, or the lot
        expires on another day.
        """
        return await self._write(partial(movements.do, new=new, now=self._clock()))

    async def movement(self, id: str) -> Movement:
        """The movement; raises Unknown."""
        return await self._database.read(partial(movements.get, id=id))

    async def void(self, movement: str, by: str = "") -> list[StockChange]:
        """Take a movement back, whatever came after it. Raises Unknown."""
        return await self._write(partial(movements.void, id=movement, by=by, now=self._clock()))

    async def choose_run(
        self, capture_id: str, run: str, *, dry_run: bool = False
    ) -> list[StockChange]:
        """Let the run of this id or pipeline fingerprint speak for the capture. Raises Unknown.

        A dry run answers what would change, and changes nothing.
        """
        work = partial(runs.choose_named, capture_id=capture_id, name=run, at=self._clock())
        return await (self._rehearse(work) if dry_run else self._write(work))

    async def proposals(self, *, cursor: str | None = None, limit: int = 100) -> Page[Proposal]:
        """All that waits for a person, newest first; of runs that hold.

        Raises ValueError for a cursor that is none.
        """
        return await self._database.read(partial(review.proposals, cursor=cursor, limit=limit))

    async def accept(
        self, observation_id: int, by: str, *, reason: str | None = None
    ) -> list[StockChange]:
        """Let the observation count, however doubtful. Raises Unknown.

        It holds for what shows the same thing in other runs too: of the same capture, and of
        captures that took its observations over.
        """
        return await self._decide(observation_id, Decision(is_accepted=True, by=by, reason=reason))

    async def reject(
        self, observation_id: int, by: str, *, reason: str | None = None
    ) -> list[StockChange]:
        """Let the observation not count, however confident. Raises Unknown.

        It was reported all the same: rejecting it does not make the item absent. Holds for
        others as ``accept`` does.
        """
        return await self._decide(observation_id, Decision(is_accepted=False, by=by, reason=reason))

    async def correct(
        self,
        observation_id: int,
        by: str,
        *,
        item: str | None = None,
        quantity: int | None = None,
        reason: str | None = None,
    ) -> list[StockChange]:
        """Let the observation count as another item, or another quantity in the item's units.

        A code names the item it stands for, and so many of its packs. Raises Unknown, also for
        the item, and ValueError for an impossible quantity or when neither is given. Holds for
        others as ``accept`` does.
        """
        if item is None and quantity is None:
            raise ValueError("give what it is instead: an item, a quantity, or both")
        decision = Decision(is_accepted=True, by=by, reason=reason, item=item, quantity=quantity)
        return await self._decide(observation_id, decision)

    async def withdraw(self, observation_id: int) -> list[StockChange]:
        """Forget what was decided about the observation; again changes nothing.

        Raises Unknown, and Conflict when it was decided about another that shows the same thing.
        """
        work = partial(review.withdraw, observation_id=observation_id, at=self._clock())
        return await self._write(work)

    async def set_policy(self, new: NewPolicy) -> tuple[Policy, list[StockChange]]:
        """Say from when on an observation is believed; replaces the policy of the same scope.

        A threshold holds for runs from now on. A largest step or a counter's rule judges all
        counts of the item anew, which reads them all, some 5 µs each, while nobody else
        writes. Raises Unknown for the item.
        """
        return await self._write(partial(policies.set_policy, new=new, at=self._clock()))

    async def policy(self, analyser: str = "", item: str = "") -> Policy:
        """The policy of exactly this analyser and item; empty is any. Raises Unknown."""
        return await self._database.read(partial(policies.get, analyser=analyser, item_id=item))

    async def policies(self, *, cursor: str | None = None, limit: int = 100) -> Page[Policy]:
        """Policies by item and analyser."""
        return await self._database.read(partial(policies.page, cursor=cursor, limit=limit))

    async def remove_policy(self, analyser: str = "", item: str = "") -> list[StockChange]:
        """Forget the policy of exactly these. Raises Unknown. Costs as ``set_policy`` does."""
        work = partial(policies.remove, analyser=analyser, item_id=item, at=self._clock())
        return await self._write(work)

    async def add_item(self, id: str, name: str, unit: str | None = None) -> Item:
        """Make an item, or return it as it is when it was there."""
        new = Item(id, name, unit)
        return await self._write(partial(items.add, new=new, at=self._clock()))

    async def rename(self, item: str, name: str, unit: str | None = None) -> Item:
        """Give the item another name, and another unit unless that is None. Raises Unknown."""
        return await self._write(partial(items.rename, id=item, name=name, unit=unit))

    async def items(
        self, *, text: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[ItemEntry]:
        """The catalogue of items with their codes, by id.

        ``text`` is part of a name, or a whole code or id.
        """
        work = partial(items.page, text=text, cursor=cursor, limit=limit)
        return await self._database.read(work)

    async def item(self, id: str) -> ItemEntry:
        """The item with its codes; raises Unknown."""
        return await self._database.read(partial(items.entry, id=id))

    async def assign_code(self, code: str, item: str, quantity: int = 1) -> list[StockChange]:
        """Let the code stand for so many units of the item, for the past as well.

        All that came under the code moves to the item, camera readings and movements; to give
        it back, assign the code to its former item. Raises Unknown, and ValueError unless
        ``quantity`` is 1 to 1,000,000.
        """
        meaning = Meaning(item, quantity)
        return await self._write(
            partial(items.assign_code, code=code, meaning=meaning, at=self._clock())
        )

    async def release_code(self, code: str, item: str) -> list[StockChange]:
        """Take the code from the item: it names one of its own again, with all that came under it.

        Raises Unknown unless it is the item's.
        """
        work = partial(items.release_code, code=code, item_id=item, at=self._clock())
        return await self._write(work)

    async def lots(self, item: str, location: str | None = None) -> Lots:
        """What lots stock of the item is made of, in a place and all below it, or in all.

        Worked out from what was received, moved and used up by lot, and from lots and days that
        the newest count read off packages. Raises Unknown for the item.
        """
        work = partial(lots.of_item, item_id=item, location_id=location)
        return await self._database.read(work)

    async def expiring(
        self, within_days: int = 7, *, location: str | None = None
    ) -> list[Expiring]:
        """Stock that expires within so many days from today, UTC, or did; the first first."""
        until = datetime.fromtimestamp(self._clock(), UTC).date() + timedelta(within_days)
        work = partial(lots.expiring, until=until, location_id=location)
        return await self._database.read(work)

    async def forecast(self, item: str, location: str | None = None, *, days: int = 28) -> Forecast:
        """When the item will be used up there and below, from use in the last ``days`` days.

        Raises Unknown for the item, ValueError unless there are 1 to 366 days.
        """
        work = partial(
            forecast.forecast,
            item_id=item,
            location_id=location,
            days=days,
            now=self._clock(),
        )
        return await self._database.read(work)

    async def import_items(
        self,
        content: bytes,
        form: ExchangeFormat | str = ExchangeFormat.CSV,
        *,
        by: str = "",
        dry_run: bool = False,
    ) -> ImportReport:
        """Take items, codes, locations, par levels and counts from a file, all or nothing.

        What the file does not say stays as it is; the same file again changes nothing. A dry
        run tells what would be done and does nothing. Raises ImportRefused with all that is
        wrong, by row.
        """
        kind = ExchangeFormat(form)
        catalogue = await anyio.to_thread.run_sync(exchange.parse, content, kind)
        name = hashlib.sha256(content).hexdigest()[:16]
        order = exchange.ImportOrder(by, self._clock(), name, dry_run)
        work = partial(exchange.apply, catalogue=catalogue, order=order)
        try:
            return await self._write(work)
        except exchange.DryRun as done:
            return done.report

    async def export_items(self, form: ExchangeFormat | str = ExchangeFormat.CSV) -> bytes:
        """A file that ``import_items`` takes, with all it can take; of stock what is over 0."""
        kind = ExchangeFormat(form)
        catalogue = await self._database.read(exchange.read_catalogue)
        return await anyio.to_thread.run_sync(exchange.written, catalogue, kind)

    async def add_location(
        self, id: str, name: str | None = None, *, parent: str | None = None
    ) -> Location:
        """Make a location. Raises Conflict if it is there, Unknown for the parent.

        The id is 1 to 100 letters, digits, ``.``, ``_``, ``-`` or spaces, with a letter or
        digit first; ValueError otherwise.
        """
        new = Location(id, id if name is None else name, parent)
        return await self._write(partial(locations.add, new=new))

    async def rename_location(self, id: str, name: str) -> Location:
        """Give the location another name. Raises Unknown."""
        return await self._write(partial(locations.rename, id=id, name=name))

    async def move_location(self, id: str, parent: str | None) -> Location:
        """Put the location, with all below it, into another, or into none.

        Raises Unknown for either, and Conflict when the other is below it.
        """
        return await self._write(partial(locations.move, id=id, parent_id=parent, at=self._clock()))

    async def locations(self) -> list[Location]:
        """Every location but the virtual ones, by id."""
        return await self._database.read(locations.all_locations)

    async def set_par_level(
        self,
        item: str,
        location: str,
        minimum: int,
        *,
        restock_at: int | None = None,
        min_confidence: float = 0.0,
        by: str = "",
    ) -> ParLevel:
        """Raise an alert when there is as little as ``minimum`` in the location and below it.

        It is cleared when there is as much as ``restock_at`` again, one more unless given. A
        figure less certain than ``min_confidence`` does neither. Where there is too little
        already, the alert is raised now. Raises Unknown, and ValueError for impossible numbers.
        """
        restock = minimum + 1 if restock_at is None else restock_at
        new = NewParLevel(item, location, minimum, restock, min_confidence, by)
        return await self._write(partial(levels.set_level, new=new, at=self._clock()))

    async def remove_par_level(self, item: str, location: str) -> None:
        """Forget the level; its alert is cleared. Raises Unknown."""
        key = Key(item, location)
        await self._write(partial(levels.remove, key=key, at=self._clock()))

    async def par_levels(
        self,
        *,
        item: str | None = None,
        location: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[ParLevel]:
        """Par levels by item and location; ``location`` does not include those below it."""
        work = partial(levels.page, item_id=item, location_id=location, cursor=cursor, limit=limit)
        return await self._database.read(work)

    async def alerts(
        self,
        *,
        item: str | None = None,
        is_open: bool = True,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Alert]:
        """Alerts, newest first: the open ones, or with ``is_open=False`` the cleared ones too."""
        work = partial(alerts.page, item_id=item, is_open=is_open, cursor=cursor, limit=limit)
        return await self._database.read(work)

    async def verify(self) -> Proof:
        """Prove stock from the facts, and the facts from their digests; reads all of the ledger."""
        return await self._database.read(proof.verify)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        """Do what changes the ledger, while nobody else does."""

        def locked(connection: Connection) -> T:
            lock_ledger(connection)
            return work(connection)

        return await self._database.write(locked)

    async def _rehearse(self, work: Callable[[Connection], list[StockChange]]) -> list[StockChange]:
        """What ``work`` would change, which is undone."""

        def undone(connection: Connection) -> list[StockChange]:
            raise Rehearsed(work(connection))

        try:
            return await self._write(undone)
        except Rehearsed as done:
            return done.changes

    async def _decide(self, observation_id: int, decision: Decision) -> list[StockChange]:
        work = partial(
            review.decide, observation_id=observation_id, decision=decision, at=self._clock()
        )
        return await self._write(work)
