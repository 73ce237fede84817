"""Files that digests vouch for: each appears whole, and is read only if it matches.

A stage leaves a file for each tile. Either the ledger holds its digest (`Tables`), or it is a
marker itself and holds the digest of what it was made from (`Markers`). What there is one of for
all tiles is mapped into memory, and has one marker (`Bundle`).
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat import files
from samplat.errors import JobError
from samplat.places import Place

if TYPE_CHECKING:
    import pyarrow as pa

REMEDY = "run the job's command again, it mends what is damaged"


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """Files of one kind, one for each index."""

    folder: Place
    """Where they are."""
    what: str
    """What a person calls them, before the index."""
    suffix: str = ".json"
    """Of their names, after six digits."""

    def file(self, index: int) -> Place:
        """Where one is, or would be."""
        return self.folder / f"{index:06d}{self.suffix}"

    def called(self, index: int) -> str:
        """What a person calls one."""
        return f"{self.what} {index}"


@dataclass(frozen=True, kw_only=True)
class Tables(Numbered):
    """One Arrow file for each index, vouched for by a digest that is kept elsewhere."""

    suffix: str = ".arrow"

    def write(self, index: int, table: pa.Table) -> str:
        """Write one; returns its SHA-256."""
        data = _table_bytes(table)
        files.write_atomic(self.file(index), data)
        return files.sha256(data)

    def match(self, index: int, digest: str | None) -> bool:
        """Whether one is as a digest says; without a digest there need be none."""
        return digest is None or files.digest(self.file(index)) == digest

    def read(
        self, index: int, digest: str | None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """One of them, or some of its columns.

        Raises:
            JobError: the file is missing or does not match.
        """
        data = checked_bytes(self.file(index), digest, self.called(index))
        return _table_from(data, columns)


@dataclass(frozen=True, kw_only=True)
class Markers(Numbered):
    """One sealed object for each index, which says from which inputs it was made."""

    def write(self, index: int, inputs: str, value: Mapping[str, Any]) -> str:
        """Write one, made from inputs with this digest; returns its own."""
        return files.write_sealed(self.file(index), {"inputs": inputs, **value})

    def find(self, index: int, inputs: str | None = None) -> dict[str, Any] | None:
        """One of them; None when it is missing, damaged, or of other inputs than those given."""
        return _made_from(files.read_sealed(self.file(index)), inputs)

    def digest(self, index: int, inputs: str | None = None) -> str | None:
        """Digest of one; None where `find` finds none."""
        found = files.read_with_seal(self.file(index))
        return None if found is None or _made_from(found[0], inputs) is None else found[1]

    def read(self, index: int, digest: str | None) -> dict[str, Any]:
        """The one with a digest, or without a digest whichever is there.

        Raises:
            JobError: it is missing or does not match.
        """
        path = self.file(index)
        return _checked(path, digest, self.called(index))


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Files of record batches, and a marker that vouches for all of them."""

    folder: Place
    """Where they are."""
    marker: str
    """The marker's name, without suffix."""
    what: Mapping[str, str]
    """By name, without suffix, what each is called."""

    def write(self, inputs: str, parts: Mapping[str, Iterable[pa.RecordBatch]], **more: str) -> str:
        """Write files in the order given, and then the marker; returns its digest.

        Args:
            inputs: digest of what they were made from.
            parts: some of the files.
            more: what else the marker is to say.
        """
        for name, batches in parts.items():
            _write_batches(self._path(name), batches)
        found = {name: files.digest(self._path(name)) for name in parts}
        return files.write_sealed(self._marker, {"inputs": inputs, **more, **found})

    def find(self, inputs: str | None = None) -> dict[str, Any] | None:
        """The marker; None when missing, of other inputs than those given, or a file is damaged."""
        marker = _made_from(files.read_sealed(self._marker), inputs)
        if marker is None or any(
            files.digest(self._path(name)) != marker[name] for name in self.what if name in marker
        ):
            return None
        return marker

    def digest(self, inputs: str | None = None) -> str | None:
        """Digest of the marker; None where `find` finds none."""
        marker = self.find(inputs)
        return None if marker is None else digest_of(marker)

    def open(self, name: str, digest: str | None = None) -> Any:
        """A reader of one file, which stays on disk; None where it was left out.

        Raises:
            JobError: it is missing, or the marker has not this digest.
        """
        marker = _checked(self._marker, digest, self.what[name])
        if name not in marker:
            return None
        return _mapped_batches(self._path(name), marker[name], self.what[name])

    @property
    def _marker(self) -> Place:
        return self.folder / f"{self.marker}.json"

    def _path(self, name: str) -> Place:
        return self.folder / f"{name}.arrow"


def digest_of(value: Mapping[str, Any]) -> str:
    """Digest of a sealed object."""
    return files.sha256(files.canonical(value))


def _made_from(value: dict[str, Any] | None, inputs: str | None) -> dict[str, Any] | None:
    return value if value is not None and inputs in (None, value["inputs"]) else None


def _checked(path: Place, digest: str | None, what: str) -> dict[str, Any]:
    found = files.read_with_seal(path)
    if found is None or digest not in (None, found[1]):
        raise JobError(f"{what} are missing or damaged: {path}; {REMEDY}")
    return found[0]


def checked_bytes(path: Place, digest: str | None, what: str) -> bytes:
    """The content of a file.

    Raises:
        JobError: it cannot be read, or does not match the digest.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JobError(f"{what} cannot be read: {path}: {error.strerror}; {REMEDY}") from error
    if digest is None or files.sha256(data) != digest:
        raise _mismatch(path, what)
    return data


def _mismatch(path: Place, what: str) -> JobError:
    return JobError(f"{what} do not match the ledger: {path} is damaged; {REMEDY}")


def _mapped_batches(path: Place, digest: str | None, what: str) -> Any:
    import pyarrow as pa

    try:
        with files.local_file(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            if digest is not None and found != digest:
                raise _mismatch(path, what)
            # a copy may be gone when the block ends: what is mapped stays
            mapped = pa.memory_map(file.name)
    except OSError:
        digest = None
    if digest is None:
        raise JobError(f"{what} cannot be read: {path}; {REMEDY}")
    return pa.ipc.open_file(mapped)


def _write_batches(path: Place, batches: Iterable[pa.RecordBatch]) -> None:
    """Uncompressed, so that it can be mapped into memory."""
    import pyarrow as pa

    given = iter(batches)
    first = next(given)
    with files.atomic_file(path) as file, pa.ipc.new_file(file, first.schema) as writer:
        writer.write_batch(first)
        for batch in given:
            writer.write_batch(batch)


def _table_bytes(table: pa.Table) -> bytes:
    import pyarrow as pa

    # a file is of one tile: Parquet would take ten times as long for its many short columns
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema, options=options) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def _table_from(data: bytes, columns: Sequence[str] | None) -> pa.Table:
    import pyarrow as pa

    # no threads: these files are small, and tiles run side by side already
    options, buffer = pa.ipc.IpcReadOptions(use_threads=False), pa.py_buffer(data)
    if columns is not None:
        schema = pa.ipc.open_file(buffer).schema
        options.included_fields = [schema.get_field_index(name) for name in columns]
    return pa.ipc.open_file(buffer, options=options).read_all()


def arrays_of(table: pa.Table) -> dict[str, NDArray[Any]]:
    """The columns of a table that are numbers, by name."""
    return {name: table[name].to_numpy() for name in table.column_names if name != "rle"}


def stacked(columns: Mapping[str, NDArray[Any]], names: Iterable[str]) -> NDArray[Any]:
    """(N, K) some columns side by side."""
    chosen = [columns[name] for name in names]
    beside = np.empty((len(chosen[0]), len(chosen)), chosen[0].dtype)
    for k, column in enumerate(chosen):
        beside[:, k] = column
    return beside


def packed(value: object, names: Iterable[str]) -> dict[str, str]:
    """Some attributes that are arrays, as JSON values."""
    return {name: packed_array(getattr(value, name)) for name in names}


def packed_array(array: NDArray[Any]) -> str:
    """An array of any shape as a JSON value."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode()


def unpacked(text: str, dtype: Any) -> NDArray[Any]:
    """(N,) the array of `packed_array`."""
    stored = np.frombuffer(base64.b64decode(text), np.dtype(dtype).newbyteorder("<"))
    return stored.astype(dtype)
