"""``capturekit review``: what waits for a person, what they say, and from when none is asked."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from capturekit.cli.options import data_option, json_option
from capturekit.cli.stock.shared import ask, by_option, limit_option, name_of, show

if TYPE_CHECKING:
    from capturekit.store import Inventory, Page, Proposal, StockChange
    from capturekit.store import Policy as StoredPolicy

PROPOSAL: Final = ("observation_id", "item_id", "location", "quantity", "confidence", "waits_for")
CHANGE: Final = ("item_id", "location_id", "before", "after")
POLICY: Final = ("item_id", "analyser", "threshold", "max_step_per_hour", "is_monotone", "by")

observation_argument = click.argument("observation_id", metavar="OBSERVATION", type=int)
reason_option = click.option("--reason", metavar="TEXT", help="Why.")
analyser_option = click.option(
    "--analyser", metavar="NAME", default="", help="Only what this step of the pipeline saw."
)
policy_item_option = click.option("--item", metavar="ID", default="", help="Only this item.")


@click.group()
def review() -> None:
    """What cameras saw but what does not count yet: accept, reject or correct it."""


@review.command("list")
@limit_option
@click.option("--cursor", metavar="CURSOR", help="Go on where a page ended.")
@data_option
@json_option
def list_proposals(limit: int, cursor: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Show what waits, newest first, and why it does not count."""
    page: Page[Proposal] = ask(
        data_dir, lambda inventory: inventory.proposals(limit=limit, cursor=cursor)
    )
    show((one.as_json() for one in page.rows), PROPOSAL, as_json=as_json)
    if page.next is not None:
        click.echo(f"there are more: --cursor {page.next}", err=True)


@review.command()
@observation_argument
@reason_option
@by_option
@data_option
@json_option
def accept(
    observation_id: int,
    reason: str | None,
    by: str | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Let OBSERVATION count as it is."""
    _decide(
        data_dir,
        lambda inventory: inventory.accept(observation_id, name_of(by), reason=reason),
        as_json=as_json,
    )


@review.command()
@observation_argument
@reason_option
@by_option
@data_option
@json_option
def reject(
    observation_id: int,
    reason: str | None,
    by: str | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Let OBSERVATION not count."""
    _decide(
        data_dir,
        lambda inventory: inventory.reject(observation_id, name_of(by), reason=reason),
        as_json=as_json,
    )


@review.command()
@observation_argument
@click.option("--item", metavar="ID", help="What it is instead: an item, or a code of one.")
@click.option("--quantity", type=int, metavar="N", help="How many it is instead.")
@reason_option
@by_option
@data_option
@json_option
def correct(
    observation_id: int,
    item: str | None,
    quantity: int | None,
    reason: str | None,
    by: str | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Let OBSERVATION count as something else, or as more or less of it."""

    async def work(inventory: "Inventory") -> "list[StockChange]":
        who = name_of(by)
        return await inventory.correct(
            observation_id, who, item=item, quantity=quantity, reason=reason
        )

    _decide(data_dir, work, as_json=as_json)


@review.command()
@observation_argument
@data_option
@json_option
def withdraw(observation_id: int, data_dir: Path | None, as_json: bool) -> None:
    """Forget what was decided about OBSERVATION."""
    _decide(data_dir, lambda inventory: inventory.withdraw(observation_id), as_json=as_json)


@review.group()
def policy() -> None:
    """From when on an observation counts without a person's word."""


@policy.command("list")
@limit_option
@data_option
@json_option
def list_policies(limit: int, data_dir: Path | None, as_json: bool) -> None:
    """Show the policies; the most particular one holds."""
    page: Page[StoredPolicy] = ask(data_dir, lambda inventory: inventory.policies(limit=limit))
    show((one.as_json() for one in page.rows), POLICY, as_json=as_json)


@policy.command("set")
@analyser_option
@policy_item_option
@click.option("--threshold", type=float, metavar="C", help="Count from this confidence on, 0 to 1.")
@click.option(
    "--max-step", type=float, metavar="N", help="Doubt what changed by more units in an hour."
)
@click.option("--monotone", is_flag=True, help="Doubt what became less: it is a meter.")
@by_option
@data_option
@json_option
def set_policy(
    analyser: str,
    item: str,
    threshold: float | None,
    max_step: float | None,
    monotone: bool,
    by: str | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Set a policy, in place of the one of the same analyser and item.

    A threshold holds for pictures processed from now on. The rules of steps and meters need an
    --item, and judge what was counted before as well.
    """
    from capturekit.store import NewPolicy

    async def work(inventory: "Inventory") -> "StoredPolicy":
        new = NewPolicy(analyser, item, threshold, max_step, monotone, name_of(by))
        return (await inventory.set_policy(new))[0]

    show([ask(data_dir, work).as_json()], POLICY, as_json=as_json)


@policy.command("remove")
@analyser_option
@policy_item_option
@data_option
@json_option
def remove_policy(analyser: str, item: str, data_dir: Path | None, as_json: bool) -> None:
    """Forget the policy of exactly this analyser and item."""
    _decide(data_dir, lambda inventory: inventory.remove_policy(analyser, item), as_json=as_json)


def change_row(change: "StockChange") -> dict[str, "str | int"]:
    """The change as JSON."""
    return {
        "item_id": change.item_id,
        "location_id": change.location_id,
        "before": change.before,
        "after": change.after,
    }


def _decide(
    data_dir: Path | None,
    work: "Callable[[Inventory], Awaitable[list[StockChange]]]",
    *,
    as_json: bool,
) -> None:
    show([dict(change_row(one)) for one in ask(data_dir, work)], CHANGE, as_json=as_json)
