"""Which columns of a manifest are used: by name, by flag, or refused with what was found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import pyarrow as pa

from batchrec.errors import ManifestError
from batchrec.manifest.definition import Columns

URI_NAMES = ("uri", "url", "path", "image", "image_path", "image_url", "file_name", "image_link")
INVENTORY_NAMES = ("bucket", "key")
ID_NAMES = ("image_id", "id")
OUTPUT_NAMES = frozenset(
    {
        "image_id",
        "uri",
        "row",
        "status",
        "error_code",
        "error_detail",
        "label",
        "score",
        "margin",
        "entropy",
        "top_k",
        "tags",
        "width",
        "height",
        "bytes",
        "attempt",
        "embedding",
    }
)
_SHOWN_COLUMNS = 30
_SHOWN_CHARACTERS = 80


def choose_columns(
    schema: pa.Schema, *, uri_column: str | None, id_column: str | None, passthrough: Sequence[str]
) -> Columns:
    """Decide which columns are read, and check them.

    Args:
        schema: Columns of the first manifest file.
        uri_column: The name asked for, ``bucket,key`` for two columns, or None to look for one.
        id_column: The name asked for, or None to take ``image_id`` or ``id`` where there is one.
        passthrough: Columns to carry into the predictions.

    Raises:
        ManifestError: A column is missing, of a wrong type, there twice, or named like an output column.
    """
    uri = _asked_uri(schema, uri_column) if uri_column else _found_uri(schema)
    chosen_id = _asked_id(schema, id_column) if id_column else _found_id(schema)
    carried = tuple(dict.fromkeys(passthrough))
    _check_passthrough(schema, carried)
    for name in (*uri, *((chosen_id,) if chosen_id else ()), *carried):
        _check_unique(schema, name)
    fields = [pa.field(name, carried_type(schema.field(name).type)) for name in carried]
    if chosen_id is not None and chosen_id not in carried:
        fields.append(pa.field(chosen_id, pa.string()))
    unfit = None if chosen_id is not None else _unfit_id(schema)
    images = images_in(schema.field(uri[0])) if len(uri) == 1 else ()
    return Columns(uri=uri, id=chosen_id, passthrough=carried, schema=pa.schema(fields), unfit_id=unfit, images=images)


def check_same_columns(columns: Columns, first: pa.Schema, first_name: str, other: pa.Schema, other_name: str) -> None:
    """Refuse a file whose used columns differ from those of the first file.

    Raises:
        ManifestError: Names the file, the column and both types.
    """
    for name in columns.read:
        expected, found = (_type_of(schema, name) for schema in (first, other))
        carried = name in columns.passthrough
        if found is not None and (
            carried_type(found) == carried_type(expected) if carried else _alike(found, expected)
        ):
            continue
        what = "is missing" if found is None else f"is {found}"
        raise ManifestError(
            "the manifest's files have different columns",
            found=f"{name!r} is {expected} in {first_name} but {what} in {other_name}",
            advice="write all files with one schema, or give them as separate jobs",
        )
    for name in columns.read:
        _check_unique(other, name)


def carried_type(kind: pa.DataType) -> pa.DataType:
    """Return the type a pass-through column of this type has in the predictions."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if is_view(plain):
        return pa.string() if plain == pa.string_view() else pa.binary()
    return plain


def is_view(kind: pa.DataType) -> bool:
    """Whether this is one of Arrow's view types, which few readers know."""
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


def is_text(kind: pa.DataType | None) -> bool:
    """Whether a column of this type holds strings; there may be none."""
    if kind is None:
        return False
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain))


def is_id(kind: pa.DataType) -> bool:
    """Whether a column of this type can give ids: strings or integers."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return is_text(kind) or bool(pa.types.is_integer(plain))


def images_in(column: pa.Field) -> tuple[str, ...]:
    """Return the parts of a column of images, the bytes and perhaps the path; none where it holds no images."""
    if _is_bytes(column.type):
        return (column.name,)
    if not pa.types.is_struct(column.type):
        return ()
    kinds = {part.name: part.type for part in column.type}
    if "bytes" not in kinds or not _is_bytes(kinds["bytes"]):
        return ()
    return tuple(f"{column.name}.{part}" for part in ("bytes", "path") if part == "bytes" or is_text(kinds.get(part)))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_images(schema: pa.Schema, name: str) -> bool:
    # Bytes under a name of URIs are URIs that somebody forgot to call text.
    kind = _type_of(schema, name)
    named_like_uris = name.casefold() in URI_NAMES and name.casefold() != "image"
    return bool(images_in(pa.field(name, kind))) and not (_is_bytes(kind) and named_like_uris)


def _alike(one: pa.DataType, other: pa.DataType) -> bool:
    if images := images_in(pa.field("", one)):
        return images == images_in(pa.field("", other))
    return (is_text(one) and is_text(other)) or (
        is_id(one) and is_id(other) and not is_text(one) and not is_text(other)
    )


def _type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    indices = schema.get_all_field_indices(name)
    return schema.field(indices[0]).type if indices else None


def _match(schema: pa.Schema, name: str) -> str | None:
    """Return the column of this name, in this case if there is one, else in any."""
    if name in schema.names:
        return name
    return next((found for found in schema.names if found.casefold() == name.casefold()), None)


def _found_uri(schema: pa.Schema) -> tuple[str, ...]:
    matches = [match for name in URI_NAMES if (match := _match(schema, name)) is not None]
    for match in matches:
        if is_text(_type_of(schema, match)):
            return (match,)
    inventory = [_match(schema, name) for name in INVENTORY_NAMES]
    pair = tuple(name for name in inventory if name is not None and is_text(_type_of(schema, name)))
    if len(pair) == len(INVENTORY_NAMES):
        return pair
    for match in matches:
        if _holds_images(schema, match):
            return (match,)
    if matches:
        raise _wrong_uri_type(schema, matches[0])
    raise ManifestError(
        "the manifest has no column of image URIs",
        found=f"columns {_shown(schema.names)}",
        advice=f"name it with --uri-col{_text_columns(schema)}; without the flag these names are tried: "
        f"{', '.join(URI_NAMES)}, or bucket and key together",
    )


def _text_columns(schema: pa.Schema) -> str:
    candidates = [field.name for field in schema if is_text(field.type)]
    return f" (columns of strings: {_shown(candidates)})" if candidates else " (no column holds strings)"


def _asked_uri(schema: pa.Schema, name: str) -> tuple[str, ...]:
    pair = tuple(part.strip() for part in name.split(","))
    names = pair if name not in schema.names and len(pair) == 2 else (name,)
    for each in names:
        if each not in schema.names:
            raise _missing("--uri-col", each, schema)
        if not is_text(_type_of(schema, each)) and not (names == (each,) and _holds_images(schema, each)):
            raise _wrong_uri_type(schema, each)
    return names


def _wrong_uri_type(schema: pa.Schema, name: str) -> ManifestError:
    kind = _type_of(schema, name)
    if pa.types.is_struct(kind):
        advice = "a struct of images has their binary `bytes` and a `path`: name another column with --uri-col"
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        advice = "cast it to a string column, or name another with --uri-col"
    else:
        advice = f"name a column of strings with --uri-col{_text_columns(schema)}"
    return ManifestError(f"column {name!r} cannot hold image URIs", found=f"type {kind}", advice=advice)


def _asked_id(schema: pa.Schema, name: str) -> str:
    if name not in schema.names:
        raise _missing("--id-col", name, schema)
    if not is_id(kind := _type_of(schema, name)):
        advice = "ids are strings or integers: name another column with --id-col, or cast it"
        raise ManifestError(f"column {name!r} cannot hold image ids", found=f"type {kind}", advice=advice)
    return name


def _found_id(schema: pa.Schema) -> str | None:
    matches = (match for name in ID_NAMES if (match := _match(schema, name)) is not None)
    return next((match for match in matches if is_id(_type_of(schema, match))), None)


def _unfit_id(schema: pa.Schema) -> tuple[str, str] | None:
    named = next((match for name in ID_NAMES if (match := _match(schema, name)) is not None), None)
    return None if named is None else (named, str(_type_of(schema, named)))


def _check_passthrough(schema: pa.Schema, names: Iterable[str]) -> None:
    for name in names:
        if name.casefold() in OUTPUT_NAMES:
            raise ManifestError(
                f"pass-through column {name!r} has the name of an output column",
                found=f"output columns {', '.join(sorted(OUTPUT_NAMES))}",
                advice="leave it out of --passthrough, or rename it in the manifest",
            )
        if name not in schema.names:
            raise _missing("--passthrough", name, schema)


def _check_unique(schema: pa.Schema, name: str) -> None:
    if (count := len(schema.get_all_field_indices(name))) > 1:
        advice = "rename all but one of them in the manifest"
        raise ManifestError(f"column {name!r} is there {count} times", found=_shown(schema.names), advice=advice)


def _missing(flag: str, name: str, schema: pa.Schema) -> ManifestError:
    by_folded = {found.casefold(): found for found in schema.names}
    near = [by_folded[close] for close in difflib.get_close_matches(name.casefold(), list(by_folded), n=3, cutoff=0.5)]
    meant = f"Did you mean {' or '.join(repr(each) for each in near)}?" if near else "Name one of them"
    cause = f"the manifest has no column {name!r} ({flag})"
    return ManifestError(cause, found=f"columns {_shown(schema.names)}", advice=meant)


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_COLUMNS} more" if len(names) > _SHOWN_COLUMNS else ""
    return (", ".join(repr(name[:_SHOWN_CHARACTERS]) for name in names[:_SHOWN_COLUMNS]) or "none") + more
