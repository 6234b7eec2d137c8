"""The API as an OpenAPI 3.1 document, made of its operations and their models."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, Literal, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaValue, models_json_schema

from capturekit import __version__
from capturekit.web.auth import SESSION_COOKIE
from capturekit.web.operation import Access, Content, Form, Operation, Raw
from capturekit.wire.problem import ProblemDetails

Json: TypeAlias = JsonSchemaValue
"""What pydantic writes schemas as."""
Mode: TypeAlias = Literal["validation", "serialization"]

_REF: Final = "#/components/schemas/{model}"

DESCRIPTION: Final = """\
Pictures from cheap cameras to a stock ledger one can trust.

Refusals are `application/problem+json` with an `id` that is in the server's log. Lists come in \
pages: give `next` as `cursor`. Times are ISO 8601 with a time zone. Where a path holds an item's \
id or a code, slashes in it may be written as they are or as `%2F`.
"""

_TEXT: Final[Json] = {"type": "string"}

HEADERS: Final[Mapping[str, Json]] = {
    "Idempotency-Key": {
        "description": "Names this request: sent again with the same key, it is not done twice.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 200},
        "example": "7f3a-12",
    },
    "Content-Digest": {
        "description": "RFC 9530; of the body, checked where it has `sha-256`.",
        "schema": _TEXT,
        "example": "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
    },
    "Capturekit-Meta": {
        "description": "What the device knows, as an RFC 9651 dictionary. `age` is how many "
        "seconds ago the picture was taken, `vbat` is in millivolts.",
        "schema": {"type": "string", "maxLength": 1024},
        "example": 'age=37, rssi=-71, vbat=3912, heap=48112, try=2, rst="brownout", fw="1.2.0"',
    },
    "Signature-Input": {
        "description": "RFC 9421; how an upload is signed, in place of a token.",
        "schema": _TEXT,
        "example": 'sig=("@method" "@path" "content-digest" "content-length");created=1764086400'
        ';keyid="pantry-cam";alg="hmac-sha256";nonce="AZq3Zc"',
    },
    "Signature": {
        "description": "RFC 9421; HMAC-SHA256 by the SHA-256 of the token.",
        "schema": _TEXT,
        "example": "sig=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:",
    },
    "If-Match": {
        "description": "The `ETag` of what was read: refused when it has changed since.",
        "schema": _TEXT,
        "example": '"v7"',
    },
    "Last-Event-ID": {
        "description": "The number of the last event that was heard; stronger than `after`.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
        "example": "1042",
    },
}
"""What request headers mean."""

_TOLD_HEADERS: Final[Mapping[str, Json]] = {
    "X-Request-Id": {"description": "As in the server's log.", "schema": _TEXT},
    "Location": {
        "description": "Where what was made, or the task, is.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RateLimit-Policy": {
        "description": "The limits that the request was counted against.",
        "schema": _TEXT,
    },
    "RateLimit": {"description": "What is left of them.", "schema": _TEXT},
    "WWW-Authenticate": {"description": "How to say who asks.", "schema": _TEXT},
    "Allow": {"description": "The methods that the path knows.", "schema": _TEXT},
    "Capturekit-Config": {
        "description": "What the device should do, as an RFC 9651 dictionary; only where it does "
        "not have the present version, `v`.",
        "schema": _TEXT,
        "example": 'v=8, every=300, phase=118, size="uxga", q=12',
    },
    "Capturekit-Nonce": {
        "description": "To sign the next upload with; also on a 401.",
        "schema": _TEXT,
    },
    "ETag": {"description": "The version, for `If-Match`.", "schema": _TEXT},
    "Content-Disposition": {"description": "What to name the file.", "schema": _TEXT},
}

_PATH_PARAMETERS: Final[Mapping[str, tuple[str, str]]] = {
    "capture_id": ("A capture's.", "01k9x3v5d0w4f6m8q2r7t1y3z5"),
    "claim_id": ("A claim's.", "5f0c9a7e3b1d2846"),
    "code": ("What stands for an item; may hold slashes.", "4006381333931"),
    "device_id": ("A device's.", "pantry-cam"),
    "item_id": ("An item's; may hold slashes.", "pasta"),
    "key": ("Whose spending it is, as the list of limits tells; may hold slashes.", "device:cam"),
    "location_id": ("A location's.", "pantry"),
    "movement_id": ("A movement's.", "01k9x3v6aa0b1c2d3e4f5g6h7j"),
    "observation_id": ("An observation's number.", "17"),
    "task_id": ("A task's.", "01k9x3v6aa0b1c2d3e4f5g6h7j"),
    "token_id": ("A token's; it is no secret.", "4f1d9c07ab52"),
    "worker_id": ("A worker's, as queue-info tells.", "kitchen-7f3a"),
    "webhook_id": ("A webhook's.", "01k9x3v6aa0b1c2d3e4f5g6h7j"),
}
"""What they mean, with an example, unless a path says otherwise below."""

_PATH_PARAMETERS_OF: Final[Mapping[tuple[str, str], tuple[str, str]]] = {
    ("put_frame", "name"): ("`BOOT-NUMBER`: which start of the device, and a number.", "7f3a-12"),
    ("change_person", "name"): ("Who it is.", "ana"),
    ("reset_limit", "name"): ("The limit's.", "ingest"),
}

_TITLES: Final[Mapping[str, str]] = {
    "ingest": "Uploads",
    "frames": "Uploads",
    "admin": "Processing",
    "queue_control": "Processing",
    "captures": "Captures",
    "reviews": "Review",
    "inventory": "Inventory",
    "movements": "Movements",
    "items": "Items",
    "places": "Places",
    "devices": "Devices",
    "device_config": "Devices",
    "claims": "Devices",
    "exchange": "Files",
    "storage": "Storage",
    "limits": "Limits",
    "tokens": "Tokens and people",
    "people": "Tokens and people",
    "events": "Events",
    "webhooks": "Events",
    "health": "Health",
    "metrics": "Health",
    "reference": "Pages",
    "dashboard": "Pages",
}
"""The part of the reference that a module's endpoints stand in."""

_SECURITY: Final[Mapping[Access, list[Json]]] = {
    Access.ANYONE: [],
    Access.DEVICE: [{"device": []}],
    **{
        role: [{"token": [role.value]}, {"session": [role.value]}]
        for role in (Access.VIEWER, Access.OPERATOR, Access.ADMIN)
    },
}

_SCHEMES: Final[Json] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of the API with this role, or one that may do more: a viewer "
        "looks, an operator changes stock and decides reviews, an admin may do everything.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": SESSION_COOKIE,
        "description": "A person who signed in by `POST /v1/session`. What changes something also "
        "needs the header `X-CSRF-Token`.",
    },
    "device": {"type": "http", "scheme": "bearer", "description": "A device's own token."},
}

_WHY: Final[Mapping[int, str]] = {
    400: "The request contradicts itself.",
    401: "The token is missing, wrong, expired or revoked.",
    403: "The token does not open this: its role is too low, or it is a device's.",
    404: "There is no such thing.",
    408: "The body did not come in time.",
    409: "It contradicts what is there.",
    410: "It was removed.",
    412: "It was changed meanwhile.",
    413: "It is too large.",
    415: "It is of a type that is not taken.",
    422: "Something that was given cannot be right.",
    429: "Too many requests.",
    500: "Something went wrong here.",
    503: "Not now: storage or queue is away, or there is too much to do.",
    507: "The disk is full; nothing was kept.",
}


def document(operations: Sequence[Operation]) -> Json:
    """The OpenAPI document of these operations; takes some 50 ms."""
    schemas = _Schemas(operations)
    paths: dict[str, Json] = {}
    for operation in operations:
        told = _operation(operation, schemas)
        paths.setdefault(operation.template, {})[operation.method.lower()] = told
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "capturekit",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": title} for title in dict.fromkeys(_TITLES.values())],
        "paths": {**paths},
        "components": {
            "schemas": schemas.named(),
            "responses": {f"Refused{status}": _refusal(status, schemas) for status in _WHY},
            "headers": {**_TOLD_HEADERS},
            "securitySchemes": _SCHEMES,
        },
    }


def refusals_of(operation: Operation) -> list[int]:
    """Statuses of all refusals that a caller may meet."""
    # A query with a NUL is refused wherever it is sent, and any address may be over its limit.
    found = {422, 429, 500, 503, *operation.problems}
    if operation.access is not Access.ANYONE:
        found |= {401, 403}
    if "{" in operation.path:
        found.add(404)
    if operation.body is not None:
        found |= {408, 413}
    if operation.is_done_once:
        found |= {408, 409, 413}
    if operation.method != "GET":
        found.add(507)
    return sorted(found)


class _Schemas:
    """The JSON Schema of every model of some operations, each under one name."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._queries = {one.query for one in operations if one.query}
        sent = {_model(one.body) for one in operations}
        told = {_model(content) for one in operations for content in one.answers.values()}
        wanted: list[tuple[type[BaseModel], Mode]] = [
            *((model, "validation") for model in _sorted(self._queries | sent)),
            *((model, "serialization") for model in _sorted(told | {ProblemDetails})),
        ]
        self._refs, found = models_json_schema(wanted, ref_template=_REF)
        self._all: dict[str, Json] = found["$defs"]

    def ref(self, model: type[BaseModel], mode: Mode) -> Json:
        """What stands for the model."""
        return self._refs[model, mode]

    def query(self, model: type[BaseModel]) -> Json:
        """The schema itself of a query."""
        return self._all[self._name(model)]

    def named(self) -> Json:
        """All but those of queries, which are told as parameters."""
        left_out = {self._name(model) for model in self._queries}
        return {name: schema for name, schema in self._all.items() if name not in left_out}

    def _name(self, model: type[BaseModel]) -> str:
        ref: str = self._refs[model, "validation"]["$ref"]
        return ref.removeprefix(_REF.format(model=""))


def _sorted(models: Iterable[type[BaseModel] | None]) -> list[type[BaseModel]]:
    return sorted((one for one in models if one), key=lambda one: (one.__module__, one.__name__))


def _model(content: Content | None) -> type[BaseModel] | None:
    if isinstance(content, Form):
        return content.model
    return None if isinstance(content, Raw) else content


def _operation(operation: Operation, schemas: _Schemas) -> Json:
    text = inspect.cleandoc(operation.endpoint.__doc__ or "").replace("``", "`")
    told: Json = {
        "operationId": operation.name,
        "tags": [_TITLES[operation.endpoint.__module__.rpartition(".")[2]]],
        "summary": text.partition("\n")[0].removesuffix("."),
        "description": text,
        "security": _SECURITY[operation.access],
        "responses": _answers(operation, schemas),
    }
    if parameters := [*_path_parameters(operation), *_query_parameters(operation, schemas)]:
        told["parameters"] = parameters
    if operation.body is not None:
        content = _content(operation.body, schemas, "validation")
        told["requestBody"] = {"required": not operation.is_body_optional, "content": content}
    return told


def _path_parameters(operation: Operation) -> list[Json]:
    names = re.findall(r"\{(\w+)", operation.path)
    found = [
        (name, *_PATH_PARAMETERS_OF.get((operation.name, name), _PATH_PARAMETERS.get(name, ())))
        for name in names
    ]
    in_path: list[Json] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": what,
            "schema": {"type": "string", "minLength": 1},
            "example": example,
        }
        for name, what, example in found
    ]
    in_header: list[Json] = [
        {"name": name, "in": "header", **HEADERS[name]} for name in _headers(operation)
    ]
    return in_path + in_header


def _headers(operation: Operation) -> tuple[str, ...]:
    return (*operation.headers, *(("Idempotency-Key",) if operation.is_done_once else ()))


def _query_parameters(operation: Operation, schemas: _Schemas) -> list[Json]:
    if operation.query is None:
        return []
    schema = schemas.query(operation.query)
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            **_described(property_),
            "schema": _not_null(property_),
        }
        for name, property_ in schema["properties"].items()
    ]


def _described(schema: Json) -> Json:
    return {"description": schema["description"]} if "description" in schema else {}


def _not_null(schema: Json) -> Json:
    """The same without null, which a query cannot say: it is left out instead."""
    without = {
        name: value for name, value in schema.items() if name not in ("title", "description")
    }
    if without.get("default", ...) is None:
        del without["default"]
    choices = [one for one in without.pop("anyOf", []) if one != {"type": "null"}]
    if len(choices) > 1:
        return {**without, "anyOf": choices}
    return {**without, **choices[0]} if choices else without


def _answers(operation: Operation, schemas: _Schemas) -> Json:
    told: dict[str, Json] = {}
    for status, content in operation.answers.items():
        told[str(status)] = {
            "description": _phrase(status),
            "headers": _told_headers(operation.told_headers.get(status, ())),
            **({} if content is None else {"content": _content(content, schemas, "serialization")}),
        }
    for status in refusals_of(operation):
        known = told.get(str(status))
        ref = {"$ref": f"#/components/responses/Refused{status}"}
        told[str(status)] = ref if known is None else _either(known, _refusal(status, schemas))
    return {status: told[status] for status in sorted(told)}


def _either(answer: Json, refusal: Json) -> Json:
    return {
        "description": refusal["description"],
        "headers": {**answer["headers"], **refusal["headers"]},
        "content": {**answer["content"], **refusal["content"]},
    }


def _refusal(status: int, schemas: _Schemas) -> Json:
    problem = {"schema": schemas.ref(ProblemDetails, "serialization")}
    return {
        "description": _WHY[status],
        "headers": _told_headers(_REFUSAL_HEADERS.get(status, ())),
        "content": {"application/problem+json": problem},
    }


_REFUSAL_HEADERS: Final[Mapping[int, tuple[str, ...]]] = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
    507: ("Retry-After",),
}


def _told_headers(names: Iterable[str]) -> Json:
    every = ("X-Request-Id", "RateLimit-Policy", "RateLimit")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*every, *names)}


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase


def _content(content: Content, schemas: _Schemas, mode: Mode) -> Json:
    if isinstance(content, Form):
        return {"multipart/form-data": {"schema": schemas.ref(content.model, mode)}}
    if isinstance(content, Raw):
        return {media_type: _raw(media_type) for media_type in content.media_types}
    return {"application/json": {"schema": schemas.ref(content, mode)}}


def _raw(media_type: str) -> Json:
    if media_type == "application/json":
        return {"schema": {}}
    if media_type.startswith("text/"):
        return {"schema": _TEXT}
    return {"schema": {"type": "string", "contentMediaType": media_type}}
