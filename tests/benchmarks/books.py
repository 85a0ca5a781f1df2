"""The charts and journals of the suite: the same ones each time that they are asked for by the same name."""

import random
from collections.abc import Sequence
from typing import Any, Final

LEAVES: Final = 1_000
HEADS: Final = {1: (), 4: (1, 5, 50), 8: (1, 2, 4, 8, 16, 32, 50)}  # by levels, leaves among them: heads on each
NO_LESS_THAN: Final = 10**15  # each leaf has a floor, so that floors are part of what is measured


def chart(*, levels: int, leaves: int = LEAVES) -> list[dict[str, Any]]:
    """Ledgers of a tree with so many levels: heads, and leaves below the last of them."""
    items: list[dict[str, Any]] = []
    above: Sequence[str] = ()
    for level, width in enumerate(HEADS[levels]):
        codes = [f"HEAD-{level}-{number:02}" for number in range(width)]
        items += [{"code": code, "is_head": True, **_below(above, number)} for number, code in enumerate(codes)]
        above = codes
    items += [
        {"code": leaf(number), "overdraft_enabled": True, "overdraft_limit": NO_LESS_THAN, **_below(above, number)}
        for number in range(leaves)
    ]
    return items


def journals(name: str, count: int, *, leaves: int = LEAVES) -> list[dict[str, Any]]:
    """Journals of two entries over so many leaves, evenly; `name` seeds them and begins their keys."""
    chance = random.Random(name)
    found = []
    for number in range(count):
        debit = chance.randrange(leaves)
        credit = (debit + chance.randrange(1, leaves)) % leaves
        found.append(_journal(f"{name}-{number}", debit, credit, chance.randrange(1, 1_000_000)))
    return found


def each_once(name: str, *, leaves: int) -> list[dict[str, Any]]:
    """Journals that give each of so many leaves one entry."""
    return [_journal(f"{name}-{number}", 2 * number, 2 * number + 1, 100) for number in range(leaves // 2)]


def leaf(number: int) -> str:
    return f"LEAF-{number:06}"


def _journal(key: str, debit: int, credit: int, amount: int) -> dict[str, Any]:
    return {
        "idempotency_key": key,
        "transaction": {"type": "payment", "description": "bench"},
        "entries": [
            {"ledger_code": leaf(debit), "type": "debit", "amount": amount},
            {"ledger_code": leaf(credit), "type": "credit", "amount": amount},
        ],
    }


def _below(above: Sequence[str], number: int) -> dict[str, str]:
    return {"parent_ledger_code": above[number % len(above)]} if above else {"type": "asset"}
