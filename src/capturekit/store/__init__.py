"""What must not be lost: captures and their runs, devices, and the ledger of stock."""

import time
from collections.abc import Callable

from capturekit.database import Database
from capturekit.store.alerts import Alert, AlertKind
from capturekit.store.captures import Capture, Captures, CaptureState, NewCapture
from capturekit.store.changes import StockChange
from capturekit.store.devices import Device, Devices, Principal, PrincipalKind
from capturekit.store.inventory import Inventory
from capturekit.store.items import Item
from capturekit.store.levels import ParLevel
from capturekit.store.locations import Location
from capturekit.store.movements import Movement, MovementKind, NewMovement
from capturekit.store.page import Page
from capturekit.store.review import Proposal
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

__all__ = [
    "Alert",
    "AlertKind",
    "Basis",
    "Capture",
    "CaptureState",
    "Captures",
    "Device",
    "Devices",
    "Evidence",
    "Inventory",
    "Item",
    "ItemSum",
    "Location",
    "Move",
    "Movement",
    "MovementKind",
    "NewCapture",
    "NewMovement",
    "Page",
    "ParLevel",
    "Principal",
    "PrincipalKind",
    "Proposal",
    "Run",
    "RunRecord",
    "StockChange",
    "StockPage",
    "StockRow",
    "StockSort",
    "Store",
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
        self.devices = Devices(database, clock)
        self.captures = Captures(database, clock, threshold)
        self.inventory = Inventory(database, clock)
