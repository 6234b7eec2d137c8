"""What must not be lost: captures and their runs, devices, and the ledger of stock."""

import time
from collections.abc import Callable

from capturekit.database import Database
from capturekit.store.access import Role
from capturekit.store.alerts import Alert, AlertKind
from capturekit.store.answers import Answers, Turn
from capturekit.store.blob_records import BlobRecords
from capturekit.store.captures import Capture, Captures, CaptureState, NewCapture
from capturekit.store.changes import StockChange
from capturekit.store.claims import Claim, Claims
from capturekit.store.collecting import Collection, Collector
from capturekit.store.configuration import (
    Configuration,
    DeviceConfig,
    FrameSize,
    Trigger,
)
from capturekit.store.devices import Device, Devices, Principal, PrincipalKind
from capturekit.store.exchange import MAX_IMPORT_BYTES, ExchangeFormat, ImportReport
from capturekit.store.figures import Alarm, Figure, Figures
from capturekit.store.fleet import DeviceEntry, Fleet, Key, View
from capturekit.store.forecast import Forecast
from capturekit.store.history import HistoryEnd, HistoryLine, Origin
from capturekit.store.inventory import Inventory
from capturekit.store.items import Item, ItemCode, ItemEntry
from capturekit.store.levels import ParLevel
from capturekit.store.locations import Location
from capturekit.store.lots import Expiring, Lot, Lots
from capturekit.store.movements import Movement, MovementKind, NewMovement
from capturekit.store.nonces import Nonces
from capturekit.store.outbox import Event, Noticing, Outbox
from capturekit.store.outlets import Outlet, Outlets
from capturekit.store.page import Page
from capturekit.store.people import People, Person
from capturekit.store.policies import NewPolicy, Policy
from capturekit.store.reprocessing import Candidate, Selection
from capturekit.store.retention import Keeping, Removal, Retention
from capturekit.store.review import Proposal, WaitsFor
from capturekit.store.runs import Run, RunRecord
from capturekit.store.stock import (
    Basis,
    Evidence,
    ItemSum,
    Move,
    StockPage,
    StockRow,
    StockSort,
    Why,
)
from capturekit.store.telemetry import Tallies
from capturekit.store.tokens import Token, Tokens
from capturekit.store.webhooks import Attempt as WebhookAttempt
from capturekit.store.webhooks import Webhook, Webhooks

__all__ = [
    "MAX_IMPORT_BYTES",
    "Alarm",
    "Alert",
    "AlertKind",
    "Answers",
    "Basis",
    "BlobRecords",
    "Candidate",
    "Capture",
    "CaptureState",
    "Captures",
    "Claim",
    "Claims",
    "Collection",
    "Collector",
    "Configuration",
    "Device",
    "DeviceConfig",
    "DeviceEntry",
    "Devices",
    "Event",
    "Evidence",
    "ExchangeFormat",
    "Expiring",
    "Figure",
    "Figures",
    "Fleet",
    "Forecast",
    "FrameSize",
    "HistoryEnd",
    "HistoryLine",
    "ImportReport",
    "Inventory",
    "Item",
    "ItemCode",
    "ItemEntry",
    "ItemSum",
    "Keeping",
    "Key",
    "Location",
    "Lot",
    "Lots",
    "Move",
    "Movement",
    "MovementKind",
    "NewCapture",
    "NewMovement",
    "NewPolicy",
    "Nonces",
    "Origin",
    "Outbox",
    "Outlet",
    "Outlets",
    "Page",
    "ParLevel",
    "People",
    "Person",
    "Policy",
    "Principal",
    "PrincipalKind",
    "Proposal",
    "Removal",
    "Retention",
    "Role",
    "Run",
    "RunRecord",
    "Selection",
    "StockChange",
    "StockPage",
    "StockRow",
    "StockSort",
    "Store",
    "Tallies",
    "Token",
    "Tokens",
    "Trigger",
    "Turn",
    "View",
    "WaitsFor",
    "Webhook",
    "WebhookAttempt",
    "Webhooks",
    "Why",
]


class Store:
    """The captures, devices and stock in one database, which the caller opens and upgrades.

    ``threshold`` is the confidence, 0 to 1, from which an observation counts without a
    person's word; another value later applies to later runs. ``clock`` gives seconds
    since 1970, UTC.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.time,
        threshold: float = 0.5,
    ) -> None:
        self.outbox = Outbox(database, clock)
        self.outlets = Outlets(database, clock)
        self.figures = Figures(database)
        self.tallies = Tallies(database)
        self.blob_records = BlobRecords(database, clock)
        # What it writes here may be told; it wakes those who tell.
        noticing = Noticing(database, self.outbox.ring)
        self.webhooks = Webhooks(noticing, clock)
        self.devices = Devices(database, clock)
        self.tokens = Tokens(database, clock)
        self.people = People(database, clock)
        self.fleet = Fleet(database, clock)
        self.claims = Claims(database, clock)
        self.nonces = Nonces(database, clock)
        self.answers = Answers(database, clock)
        self.captures = Captures(noticing, clock, threshold)
        self.inventory = Inventory(noticing, clock)
