"""What a project is set to: its stage, the model in use, the numbers of each stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from samplat import InputError
from samplat_train.engine.durable import replace_file

Stage = Literal["assisted", "semi-automatic", "fully-automatic"]
STAGES: tuple[Stage, ...] = get_args(Stage)
FORMAT = "samplat data engine 1"


@dataclass(frozen=True, kw_only=True)
class ModelReference:
    """Which model is meant, and with which weights."""

    name: str
    """A name that `load_model` knows, or the path of a file of weights."""
    sha256: str
    """Hexadecimal digest of the weights: other weights under the name are refused."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of the stages; the paper's, where it states them (section 4, appendix B).

    Raises:
        InputError: a value out of its range.
    """

    pred_iou_thresh: float | None = None
    """Masks of a lower predicted IoU are dropped; None: the model's own default, else the
    paper's 0.88."""
    stability_score_thresh: float | None = None
    """Masks of a lower stability are dropped; None: the model's own default, else 0.95."""
    points_per_side: int = 32
    """Fully automatic: points along each side of the whole picture."""
    crop_layers: int = 2
    """Fully automatic: layers of overlapping crops, 2 × 2 and 4 × 4, each with half of the points
    along a side that the layer before has."""
    nms_thresh: float = 0.7
    """IoU of boxes above which the weaker mask is dropped, within a crop and across crops."""
    min_region_area: int = 100
    """Holes and islands of fewer pixels are removed from automatic masks; 0 leaves them. The fully
    automatic stage drops masks of fewer pixels altogether."""
    max_cover: float = 0.95
    """Fully automatic: masks that cover this share of the picture or more are dropped."""
    proposal_points_per_side: int = 16
    """Semi-automatic: points along each side of the picture that confident masks come from."""
    proposal_overlap: float = 0.5
    """Semi-automatic: a proposal of at least this IoU with a mask already there is left out."""
    lease_seconds: float = 1800.0
    """An annotator who records nothing for so long loses the claim on a picture."""

    def __post_init__(self) -> None:
        shares = ("pred_iou_thresh", "stability_score_thresh", "nms_thresh", "max_cover")
        for name in (*shares, "proposal_overlap"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} must lie in 0..1, got {value}")
        for name in ("points_per_side", "proposal_points_per_side"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("crop_layers", "min_region_area"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be >= 0, got {getattr(self, name)}")
        if not self.lease_seconds > 0:
            raise InputError(f"lease_seconds must be positive, got {self.lease_seconds}")

    def changed(self, **changes: Any) -> Parameters:
        """The same with some numbers replaced; those that are None are left as they are.

        Raises:
            InputError: an unknown name, or a value out of its range.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        known = [f.name for f in fields(self)]
        if unknown := sorted(set(given) - set(known)):
            raise InputError(f"unknown parameter {unknown[0]!r}; known are {', '.join(known)}")
        return replace(self, **given)

    def thresholds(self, defaults: Mapping[str, float]) -> dict[str, float]:
        """Thresholds for `samplat.generate_masks`: set here, else the model's, else the paper's."""
        paper = {"pred_iou_thresh": 0.88, "stability_score_thresh": 0.95}
        own = {name: getattr(self, name) for name in paper if getattr(self, name) is not None}
        return {**paper, **defaults, **own}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The content of `project.json`."""

    model: ModelReference
    """In use now."""
    stage: Stage = "assisted"
    """What `next_picture` serves pictures for."""
    round: int = 0
    """Number of the retraining that made the model in use; 0: none has been."""
    parameters: Parameters = field(default_factory=Parameters)
    """Numbers of the stages."""

    def save(self, path: Path) -> None:
        """Write `project.json` whole or not at all.

        Raises:
            SamplatError: it cannot be written.
        """
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1)
        replace_file(path, text.encode() + b"\n")

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read `project.json`.

        Raises:
            InputError: missing, damaged, or of another format.
        """
        if not path.is_file():
            raise InputError(
                f"{path.parent} is no data engine project (it has no {path.name}); "
                "make one with `samplat engine create`"
            )
        try:
            facts = json.loads(path.read_bytes())
            if (found := facts.pop("format")) != FORMAT:
                raise InputError(f"{path}: expected format {FORMAT!r}, got {found!r}")
            return cls(
                model=ModelReference(**facts.pop("model")),
                parameters=Parameters(**facts.pop("parameters")),
                stage=checked_stage(facts.pop("stage")),
                **facts,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged: {type(error).__name__} {error}") from error


def checked_stage(name: str) -> Stage:
    """The stage of this name.

    Raises:
        InputError: there is none.
    """
    for stage in STAGES:
        if stage == name:
            return stage
    raise InputError(f"expected a stage out of {', '.join(STAGES)}, got {name!r}")
