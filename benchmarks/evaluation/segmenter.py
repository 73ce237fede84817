"""What is measured: anything that embeds pictures and answers prompts."""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samplat.prompts import Prompts
from samplat.stored_embeddings import Storage, decode_embedding, encode_embedding


class Result(Protocol):
    """M masks for each of P prompts, as `samplat.predict` returns them."""

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(P, M, H, W)."""
        ...

    @property
    def predicted_iou(self) -> NDArray[np.float32]:
        """(P, M)."""
        ...

    @property
    def logits(self) -> NDArray[np.float32]:
        """(P, M, h, w) at low resolution; one of them can be the next mask prompt."""
        ...


class Segmenter(Protocol):
    """A model behind two calls."""

    def embed(self, image: NDArray[np.uint8]) -> Any:
        """Whatever `predict` needs to know of a picture (H, W, 3)."""
        ...

    def predict(self, embedding: Any, prompts: Prompts, *, multimask: bool) -> Result:
        """Masks for prompts in pixels of that picture: three of each, or a single one."""
        ...


class SamplatSegmenter:
    """A model of samplat by name or path.

    Args:
        name: of the model.
        storage: embeddings are what an `EmbeddingCache` of this storage would give back; None: as
            they are computed.
    """

    def __init__(self, name: str, storage: Storage | None = None) -> None:
        import samplat

        self._samplat = samplat
        self._model = samplat.load_model(name)
        self._storage = storage

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self._model.sam.parameters())

    def embed(self, image: NDArray[np.uint8]) -> Any:
        """`samplat.embed`."""
        embedding = self._samplat.embed(self._model, image)
        if self._storage is None:
            return embedding
        return decode_embedding(encode_embedding(embedding, self._storage))[0]

    def predict(self, embedding: Any, prompts: Prompts, *, multimask: bool) -> Result:
        """`samplat.predict`."""
        return self._samplat.predict(self._model, embedding, prompts, multimask=multimask)


class Stopwatch:
    """A segmenter that notes how long its calls take, in milliseconds."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.encodes: list[float] = []
        """Of each `embed`."""
        self.prompts: list[float] = []
        """Of each `predict`, divided by its prompts."""

    def embed(self, image: NDArray[np.uint8]) -> Any:
        """Timed."""
        start = time.perf_counter()
        embedding = self._segmenter.embed(image)
        self.encodes.append(1e3 * (time.perf_counter() - start))
        return embedding

    def predict(self, embedding: Any, prompts: Prompts, *, multimask: bool) -> Result:
        """Timed."""
        start = time.perf_counter()
        result = self._segmenter.predict(embedding, prompts, multimask=multimask)
        self.prompts.append(1e3 * (time.perf_counter() - start) / len(prompts))
        return result

    def figures(self) -> dict[str, float]:
        """Medians: `ms_encode` and `ms_prompt`."""
        named = {"ms_encode": self.encodes, "ms_prompt": self.prompts}
        return {name: float(np.median(times)) for name, times in named.items() if times}
