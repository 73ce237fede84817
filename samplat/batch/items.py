"""What a batch is asked to do: inputs, globs, folders and rows of a manifest become items.

Everything that can be wrong with how it was asked for is found here, before any work. Whether an
image is whole is not: that concerns its item, and not the others.
"""

from __future__ import annotations

import functools
import glob
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from samplat.batch.manifest import COLUMNS, INPUT, KIND, NAME, OUTPUT, Manifest, Row
from samplat.batch.options import KindOptions, as_text, nearest
from samplat.errors import InputError
from samplat.hookspecs import JobKind
from samplat.job_command import JobOrder, check_output
from samplat.places import Place, is_remote, place
from samplat.plugins import Registry

DOUBLE = (".nii.gz", ".ome.tif", ".ome.tiff", ".ome.zarr", ".zarr")
"""Suffixes of inputs that a name loses as a whole."""
IN_MANIFEST = ("prompts",)
"""Options that are paths, which in a manifest start from its folder."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An input before its command has understood it."""

    where: str
    """Where it was asked for, for messages: a row, or the path itself."""
    input: str
    """Path or URL."""
    kind: str
    """Name of its kind."""
    name: str
    """Of its output, without suffix; / stands for a folder."""
    outputs: tuple[str, ...] = ()
    """Below the output folder; none: by the name and the suffixes of the batch."""
    options: Mapping[str, Any]
    """By name, as they were given; each is one of its kind's."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One input, understood and checked, though nobody has looked into it."""

    name: str
    """Unique in the batch."""
    kind: str
    """Of the command that does the same."""
    input: str
    """Absolute path, or URL."""
    outputs: tuple[Place, ...]
    """What is to be written."""
    options: Mapping[str, str]
    """What its command was told."""
    job_dir: Place
    """Its job directory."""
    order: JobOrder
    """What the command understood."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What holds for all items of a batch."""

    tools: Registry
    """Knows the kinds and the exporters."""
    folder: Place
    """Of the outputs."""
    state: Place
    """Of job directories and records."""
    kind: str | None = None
    """The kind of all inputs; None: each as it looks."""
    suffixes: tuple[str, ...] = ()
    """Of outputs; those of a kind's own plugin concern that kind only."""
    options: Mapping[str, str]
    """For all items whose command has them; `KIND.NAME` for those of one kind."""
    keep_folders: bool = False
    """True: outputs lie in folders like those that inputs were found in."""

    @functools.cached_property
    def kinds(self) -> dict[str, KindOptions]:
        """All kinds by name, or the chosen one.

        Raises:
            InputError: there is no such kind.
        """
        known = {kind.name: KindOptions(kind) for kind in self.tools.job_kinds()}
        if self.kind is None:
            return known
        if self.kind not in known:
            raise InputError(f"there is no kind {self.kind!r}; {nearest(self.kind, known)}")
        return {self.kind: known[self.kind]}


def understood(asking: Asking, inputs: Sequence[str], manifest: Manifest | None) -> list[Item]:
    """All items of a batch, checked.

    Raises:
        InputError: one cannot be meant as it was asked for, where, and what to do.
    """
    asked = list(itertools.chain.from_iterable(_found(asking, text) for text in inputs))
    if manifest is not None:
        _check_columns(asking, manifest)
        asked += [each for row in manifest.rows for each in _of_row(asking, manifest, row)]
    if not asked:
        raise InputError("there is nothing to do: name inputs, or give --manifest")
    return _checked(asking, [_with_outputs(asking, each) for each in asked])


def _found(asking: Asking, text: str) -> Iterator[Asked]:
    """The items of an argument: a URL, a file, a folder, a glob."""
    if _is_remote(text) or Path(text).exists() or not glob.has_magic(text):
        root = Path(text).parent
        paths = [text]
    else:
        root = _fixed(text)
        paths = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 for absolute ones too
        if not paths:
            raise InputError(f"no file matches {text}; check the pattern, and that it is quoted")
    for path in paths:
        below = Path(path).parent.relative_to(root) if asking.keep_folders else Path()
        for one in _at(asking, path, path):
            yield replace(one, name=(below / one.name).as_posix())


def _is_remote(text: str) -> bool:
    return "://" in text or text.startswith("/vsi")


def _fixed(pattern: str) -> Path:
    """The part of a pattern before the first folder that is one."""
    parts = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts[:-1])
    return Path(*parts)


def _at(asking: Asking, path: str, where: str, kind: str | None = None) -> Iterator[Asked]:
    """The items at a path: itself, or all that a folder holds; of one kind if it is told."""
    kinds = asking.kinds if kind is None else {kind: asking.kinds[kind]}
    place = Path(path)
    if not _is_remote(path) and not place.exists():
        raise InputError(f"{where}: there is no file or folder {path}")
    stem = _stem(path)
    if not _is_remote(path) and place.is_dir():
        for name, known in kinds.items():
            inside = known.kind.inside(place)
            for found, below, options in inside:
                called = f"{stem}/{below}".strip("/")
                called = called if asking.keep_folders else called.replace("/", "-")
                yield _asked(asking, where, found, name, called, options)
            if inside:
                return
    claimed = _kind_of(kinds.values(), path, where)
    yield _asked(asking, where, path, claimed.name, stem, {})


def _asked(
    asking: Asking, where: str, path: str, kind: str, name: str, options: Mapping[str, Any]
) -> Asked:
    there = path if _is_remote(path) else str(Path(path).absolute())
    told = {**_of_all(asking, kind), **options}
    return Asked(where=where, input=there, kind=kind, name=name, options=told)


def _stem(path: str) -> str:
    name = Path(path.rstrip("/")).absolute().name
    double = next((s for s in DOUBLE if name.lower().endswith(s)), None)
    return name[: -len(double)] if double else Path(name).stem if "." in name else name


def _kind_of(kinds: Iterable[KindOptions], path: str, where: str) -> JobKind:
    known = [each.kind for each in kinds]
    for kind in known:
        if kind.accepts(path):
            return kind
    commands = " or ".join(kind.command for kind in known) or "any command that is installed"
    raise InputError(
        f"{where}: {path} is nothing for {commands}; name files, a glob such as 'scans/*.nii.gz', "
        "a folder of DICOM series or an OME-Zarr plate"
    )


def _of_all(asking: Asking, kind: str) -> dict[str, Any]:
    """The options of the batch that concern a kind; those for it alone count more."""
    names = asking.kinds[kind].names
    common = {n: v for n, v in asking.options.items() if n in names}
    own = {n.partition(".")[2]: v for n, v in asking.options.items() if n.startswith(f"{kind}.")}
    return {**common, **own}


def check_options(asking: Asking) -> None:
    """Refuse options of the batch that no command has.

    Raises:
        InputError: that.
    """
    for name in asking.options:
        kind, dot, own = name.rpartition(".")
        if dot and kind not in asking.kinds:
            raise InputError(
                f"--set {name}: there is no kind {kind!r}; {nearest(kind, asking.kinds)}"
            )
        kinds = [kind] if dot else list(asking.kinds)
        known = {each for one in kinds for each in asking.kinds[one].names}
        if own not in known:
            told = f"--set {name}: {_commands(asking, kinds)} has no such option"
            raise InputError(f"{told}; {nearest(own, known)}")


def _commands(asking: Asking, kinds: Iterable[str]) -> str:
    return " or ".join(asking.kinds[kind].kind.command for kind in kinds) or "nothing"


def _check_columns(asking: Asking, manifest: Manifest) -> None:
    known = {name for each in asking.kinds.values() for name in each.names}
    for column in manifest.columns:
        if column not in COLUMNS and column not in known:
            raise InputError(
                f"{manifest.path} has the column {column!r}, which is no option of "
                f"{_commands(asking, asking.kinds)}; {nearest(column, {*known, *COLUMNS})}"
            )


def _of_row(asking: Asking, manifest: Manifest, row: Row) -> Iterator[Asked]:
    values, base = row.values, manifest.path.parent
    if KIND in values and str(values[KIND]) not in asking.kinds:
        told = f"{manifest.place(row, KIND)} is {values[KIND]!r}"
        raise InputError(f"{told}; expected one of {', '.join(asking.kinds)}")
    kind = str(values[KIND]) if KIND in values else None
    path = _beside(base, str(values[INPUT]))
    found = list(_at(asking, path, manifest.place(row, INPUT), kind))
    if len(found) > 1 and {NAME, OUTPUT} & values.keys():
        raise InputError(
            f"{manifest.place(row)} is a folder of {len(found)} images, which cannot all be called "
            "the same; leave out its name and output, or give each a row"
        )
    for one in found:
        yield replace(
            one,
            where=manifest.place(row),
            name=str(values.get(NAME, one.name)),
            outputs=_listed(values.get(OUTPUT)),
            options={**one.options, **_own(asking, manifest, row, one)},
        )


def _beside(base: Path, text: str) -> str:
    return text if _is_remote(text) else str(base / text)


def _listed(value: Any) -> tuple[str, ...]:
    """One output, or several in a list or with semicolons."""
    if value is None:
        return ()
    parts = value if isinstance(value, list) else str(value).split(";")
    return tuple(str(part).strip() for part in parts if str(part).strip())


def _own(asking: Asking, manifest: Manifest, row: Row, one: Asked) -> dict[str, Any]:
    """The options of a row; each must be one that its kind has."""
    own, known = {}, asking.kinds[one.kind]
    for column, value in row.values.items():
        if column in COLUMNS:
            continue
        if column not in known.names:
            raise InputError(
                f"{manifest.place(row, column)}: {known.kind.command} has no such option, and "
                f"{one.input} is a {one.kind}; leave the cell empty"
            )
        own[column] = _beside(manifest.path.parent, value) if column in IN_MANIFEST else value
    return own


def _with_outputs(asking: Asking, asked: Asked) -> Asked:
    """With outputs that are named by the item where none are given."""
    if asked.outputs:
        return asked
    kind = asking.kinds[asked.kind].kind
    suffixes = [s for s in asking.suffixes if _concerns(asking.tools, s, asked.kind)]
    named = tuple(asked.name + suffix for suffix in suffixes or (kind.suffix,))
    return replace(asked, outputs=named)


def _concerns(tools: Registry, suffix: str, kind: str) -> bool:
    """Whether outputs of a suffix are for items of a kind: another kind's formats are not."""
    owners = {k.name: tools.owners["job_kinds", k.name] for k in tools.job_kinds()}
    writer = tools.exporter_for(Path(f"x{suffix}"))
    owner = tools.owners["exporters", writer.name]
    return owner == owners[kind] or owner not in owners.values()


def _checked(asking: Asking, asked: Sequence[Asked]) -> list[Item]:
    names: dict[str, str] = {}
    places: dict[Place, str] = {}
    inputs = {place(one.input).resolve(): one.where for one in asked}
    for one in asked:
        _check_name(one, names)
        for output in one.outputs:
            there = _placed(asking.folder, output, one.where)
            if there in places:
                raise InputError(
                    f"{one.where}: {there} is also the output of {places[there]}; --keep-folders, "
                    "or a name or output in a manifest, tells them apart"
                )
            if there in inputs:
                raise InputError(f"{one.where}: {there} is the input of {inputs[there]}")
            places[there] = one.where
    return [_item(asking, one) for one in asked]


def _check_name(one: Asked, names: dict[str, str]) -> None:
    if one.name in names:
        raise InputError(
            f"{one.where}: {names[one.name]} is called {one.name!r} too; --keep-folders, or a name "
            "in a manifest, tells them apart"
        )
    names[one.name] = one.where


def _placed(folder: Place, output: str, where: str) -> Place:
    inside: Place
    if isinstance(folder, Path):
        inside = (folder / output).resolve()
        leaves = not inside.is_relative_to(folder.resolve())
    else:
        inside = folder / output
        leaves = ".." in output.split("/") or is_remote(output)
    if leaves:
        raise InputError(f"{where}: {output} lies outside of the output folder {folder}")
    return inside


def _item(asking: Asking, one: Asked) -> Item:
    from urllib.parse import quote

    known = asking.kinds[one.kind]
    _check_prompts(known.kind, one)
    outputs = tuple(_placed(asking.folder, output, one.where) for output in one.outputs)
    job_dir = asking.state / "jobs" / quote(one.name, safe=" ")
    try:
        order = known.order(one.input, outputs, one.options, job_dir)
    except InputError as error:
        raise InputError(f"{one.where}: {error}") from error
    return Item(
        name=one.name,
        kind=one.kind,
        input=one.input,
        outputs=outputs,
        options={name: as_text(value) for name, value in one.options.items()},
        job_dir=job_dir,
        order=order,
    )


def _check_prompts(kind: JobKind, one: Asked) -> None:
    given = one.options.get("prompts")
    if given is None:
        return
    path = Path(str(given))
    if not path.exists():
        raise InputError(f"{one.where}, column prompts: there is no file {path}")
    if not path.is_dir() and not path.name.lower().endswith(kind.prompts):
        raise InputError(
            f"{one.where}, column prompts: {path.name} is of no use to a {kind.name}; expected one "
            f"of {' '.join(kind.prompts)}"
        )


def check_outputs(items: Sequence[Item]) -> None:
    """Make the folders of outputs, and refuse what cannot be written.

    Raises:
        InputError: that.
    """
    for item in items:
        for output, exporter in item.order.exporters.items():
            output.parent.mkdir(parents=True, exist_ok=True)
            check_output(exporter, output)
