"""Routes of ledgers: opened, shown with balances, as children, trees and entries."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Response

from ledgermill.api import shapes
from ledgermill.api.dependencies import Body, Opening, Reading, answer, openapi_body
from ledgermill.errors import InvalidField
from ledgermill.messages.entries import EntryPageV1
from ledgermill.messages.fields import read_reference
from ledgermill.messages.ledgers import (
    BalanceV1,
    LedgerAnswerV1,
    LedgerPageV1,
    LedgersOpenedV1,
    TreeV1,
    read_chart,
    read_ledger,
)
from ledgermill.messages.posting import read_list
from ledgermill.storage.connections import Transaction
from ledgermill.usecases import charts, ledgers

router = APIRouter(prefix="/v1/ledgers", tags=["ledgers"])

Ref = Annotated[str, Path(max_length=100, description="A ledger's id, 10-digit number or code.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
READ_PROBLEMS: Final = shapes.problems(400, 401, 403, 404, 503)
WRITE_PROBLEMS: Final = shapes.problems(400, 401, 403, 404, 409, 422, 503)
IMPORT_BODY: Final = openapi_body(
    ("application/json", {"type": "array", "items": {"$ref": shapes.LEDGER_NEW}}),
    ("text/csv", {"type": "string", "description": "A header of field names, then one ledger a line."}),
)


@router.post(
    "",
    status_code=201,
    response_model=LedgerAnswerV1,
    responses=WRITE_PROBLEMS,
    openapi_extra=openapi_body(("application/json", {"$ref": shapes.LEDGER_NEW})),
)
async def open_ledger(body: Body, books: Opening) -> Response:
    """Open a ledger: a head that takes children, or a leaf that takes entries."""
    items = read_list(b"[" + body + b"]")
    if len(items) != 1:
        raise InvalidField(field="the body", problem="must be one JSON object; open many at /v1/ledgers/import")
    item = read_ledger(items[0])

    def act(tx: Transaction, organization_id: int) -> LedgerAnswerV1:
        uuid = charts.open_ledger(tx, organization_id, item, principal_id=books.caller.principal_id)
        return LedgerAnswerV1(ledger=ledgers.show(tx, organization_id, read_reference(str(uuid))))

    opened = await books.run(act)
    return answer(opened, status=201, headers={"Location": f"/v1/ledgers/{opened.ledger.id}"})


@router.post(
    "/import", status_code=201, response_model=LedgersOpenedV1, responses=WRITE_PROBLEMS, openapi_extra=IMPORT_BODY
)
async def import_chart(body: Body, books: Opening) -> Response:
    """Open many ledgers, parents in any order, all or nothing; the problem names the place of each error."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise InvalidField(field="the body", problem="must be UTF-8 text") from None
    is_json = text.lstrip()[:1] in {"[", "{"}
    items = list(read_chart(text, is_csv=not is_json))

    def act(tx: Transaction, organization_id: int) -> LedgersOpenedV1:
        uuids = charts.open_chart(tx, organization_id, items, principal_id=books.caller.principal_id)
        return LedgersOpenedV1(opened=len(uuids), ledger_ids=uuids)

    return answer(await books.run(act), status=201)


@router.get("", response_model=LedgerPageV1, responses=READ_PROBLEMS)
async def list_ledgers(
    books: Reading, after: Annotated[str, Query(max_length=100)] = "", limit: Limit = 100
) -> Response:
    """All ledgers by code, a page at a time; heads are marked, since adding them counts twice."""
    return answer(await books.run(ledgers.list_ledgers, after_code=after, limit=limit))


@router.get("/tree", response_model=TreeV1, responses=READ_PROBLEMS)
async def read_trees(books: Reading) -> Response:
    """All trees with the balances of one moment."""
    return answer(await books.run(ledgers.tree, None))


@router.get("/{ref}", response_model=LedgerAnswerV1, responses=READ_PROBLEMS)
async def read_ledger_by_name(books: Reading, ref: Ref) -> Response:
    """A ledger with its balance."""
    return answer(LedgerAnswerV1(ledger=await books.run(ledgers.show, read_reference(ref))))


@router.patch(
    "/{ref}",
    response_model=LedgerAnswerV1,
    responses=WRITE_PROBLEMS,
    openapi_extra=openapi_body(
        ("application/json", {"type": "object", "properties": {"active": {"type": "boolean"}}, "required": ["active"]})
    ),
)
async def change_ledger(body: Body, books: Opening, ref: Ref) -> Response:
    """Let a ledger take entries (`{"active": true}`), or no more (`{"active": false}`)."""
    reference = read_reference(ref)
    match read_list(b"[" + body + b"]"):
        case [{"active": bool(active), **rest}] if not rest:
            pass
        case _:
            raise InvalidField(field="the body", problem='must be {"active": true} or {"active": false}')

    def act(tx: Transaction, organization_id: int) -> LedgerAnswerV1:
        charts.set_active(tx, organization_id, reference, active=active, principal_id=books.caller.principal_id)
        return LedgerAnswerV1(ledger=ledgers.show(tx, organization_id, reference))

    return answer(await books.run(act))


@router.get("/{ref}/balance", response_model=BalanceV1, responses=READ_PROBLEMS)
async def read_balance(books: Reading, ref: Ref) -> Response:
    """A ledger's balance: current, available, totals and version; of its whole subtree for a head."""
    return answer(await books.run(ledgers.balance, read_reference(ref)))


@router.get("/{ref}/children", response_model=LedgerPageV1, responses=READ_PROBLEMS)
async def read_children(
    books: Reading, ref: Ref, after: Annotated[str, Query(max_length=100)] = "", limit: Limit = 100
) -> Response:
    """A head's direct children by code."""
    return answer(await books.run(ledgers.children, read_reference(ref), after_code=after, limit=limit))


@router.get("/{ref}/tree", response_model=TreeV1, responses=READ_PROBLEMS)
async def read_subtree(books: Reading, ref: Ref) -> Response:
    """A ledger and all that is below it, with the balances of one moment."""
    return answer(await books.run(ledgers.tree, read_reference(ref)))


@router.get("/{ref}/entries", response_model=EntryPageV1, responses=READ_PROBLEMS)
async def read_entries(
    books: Reading, ref: Ref, below: Annotated[int | None, Query(ge=1, lt=2**63)] = None, limit: Limit = 100
) -> Response:
    """A leaf's entries, newest first, with running balances; `below` is the `next_below` of the page before."""
    return answer(await books.run(ledgers.entries_of, read_reference(ref), below_number=below, limit=limit))
