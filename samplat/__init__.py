"""samplat: Segment Anything as a platform.

Everything public is here, and nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from samplat.errors import (
    CheckpointError,
    ExecutorError,
    InputError,
    JobError,
    PluginError,
    SamplatError,
)

_HOME = {
    "allocation": ("keep_freed_memory",),
    "automatic": ("generate_masks",),
    "grid": ("GridParameters",),
    "cache": ("CacheInfo", "EmbeddingCache"),
    "checkpoints": (
        "Model",
        "ModelSpec",
        "check_new_name",
        "install_model",
        "load_model",
        "save_model",
        "weights_digest",
    ),
    "downloads": ("home",),
    "embedding": ("Embedding", "EmbeddingKey"),
    "files": ("check_file", "check_writable", "replacing"),
    "finished": ("open_result",),
    "given": ("labels_result",),
    "answers": ("PromptedSegmenter",),
    "hookspecs": ("Exporter", "JobKind", "hookimpl"),
    "job": ("JobResult", "Plan", "SegmentJob", "Segmenter", "SegmenterFactory", "plan"),
    "machine_code": ("as_machine_code",),
    "masks": ("MaskSet", "mask_set"),
    "model.mask_decoder": ("Draft",),
    "model.sam": ("BUILDERS", "Sam", "frame_size", "input_scale", "merged_masks"),
    "model.windows": ("Prompted", "Windows"),
    "object_prompts": (
        "FeaturePrompt",
        "ObjectPrompt",
        "PromptSpec",
        "ScenePrompts",
        "gather_prompts",
    ),
    "job_command": (
        "ExecutorChoice",
        "ExecutorName",
        "JobCommand",
        "JobOrder",
        "SchedulerAddress",
        "UsageProblem",
        "Workers",
        "carried_out",
        "check_image",
        "check_output",
        "check_output",
        "chosen_executor",
        "default_job_dir",
        "exporters_for",
        "fitting_tiles",
        "usage_error",
        "write_outputs",
    ),
    "executors": ("Executor", "ExecutorFactory"),
    "pipeline": ("run_job", "run_planned"),
    "workbench": ("keeping_segmenters",),
    "places": ("Place", "RemotePath", "place"),
    "pixels": ("ImageInfo", "ImageSource", "Rescaler", "SourceFactory", "SourceSpec", "Stretch"),
    "plugins": ("Registry", "plugin_versions", "registry", "segment"),
    "prediction": ("Prediction", "embed", "mask_prompts", "predict"),
    "progress": ("Progress", "choose_progress"),
    "prompters": ("Prompter",),
    "prompts": ("Prompts",),
    "queues": (
        "MaskChange",
        "PictureQueue",
        "PictureWork",
        "QueueFactory",
        "QueueStatus",
        "QueuedMask",
        "QueuedPicture",
    ),
    "stack_answers": (
        "SliceFound",
        "StackAnswer",
        "StackFollowed",
        "StackFollower",
        "StackSegmenter",
        "StackView",
    ),
    "stack_prompts": ("SliceMark", "StackPrompts"),
    "shapes": ("between_masks", "mask_depth"),
    "stacking": ("StackRules",),
    "rehearsal": ("Rehearsal", "rehearse"),
    "selection": ("reselect",),
    "shards": ("HOLE", "narrowed", "smallest_dtype"),
    "tiles": ("Tile", "TileGrid", "Window"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BUILDERS",
    "HOLE",
    "CacheInfo",
    "CheckpointError",
    "Draft",
    "Embedding",
    "EmbeddingCache",
    "EmbeddingKey",
    "Executor",
    "ExecutorChoice",
    "ExecutorError",
    "ExecutorFactory",
    "ExecutorName",
    "Exporter",
    "FeaturePrompt",
    "GridParameters",
    "ImageInfo",
    "ImageSource",
    "InputError",
    "JobCommand",
    "JobError",
    "JobKind",
    "JobOrder",
    "JobResult",
    "MaskChange",
    "MaskSet",
    "Model",
    "ModelSpec",
    "ObjectPrompt",
    "PictureQueue",
    "PictureWork",
    "Place",
    "Plan",
    "PluginError",
    "Prediction",
    "Progress",
    "PromptSpec",
    "Prompted",
    "PromptedSegmenter",
    "Prompter",
    "Prompts",
    "QueueFactory",
    "QueueStatus",
    "QueuedMask",
    "QueuedPicture",
    "Registry",
    "Rehearsal",
    "RemotePath",
    "Rescaler",
    "Sam",
    "SamplatError",
    "ScenePrompts",
    "SchedulerAddress",
    "SegmentJob",
    "Segmenter",
    "SegmenterFactory",
    "SliceFound",
    "SliceMark",
    "SourceFactory",
    "SourceSpec",
    "StackAnswer",
    "StackFollowed",
    "StackFollower",
    "StackPrompts",
    "StackRules",
    "StackSegmenter",
    "StackView",
    "Stretch",
    "Tile",
    "TileGrid",
    "UsageProblem",
    "Window",
    "Windows",
    "Workers",
    "as_machine_code",
    "between_masks",
    "carried_out",
    "check_file",
    "check_image",
    "check_new_name",
    "check_output",
    "check_writable",
    "choose_progress",
    "chosen_executor",
    "default_job_dir",
    "embed",
    "exporters_for",
    "fitting_tiles",
    "frame_size",
    "gather_prompts",
    "generate_masks",
    "home",
    "hookimpl",
    "input_scale",
    "install_model",
    "keep_freed_memory",
    "keeping_segmenters",
    "labels_result",
    "load_model",
    "mask_depth",
    "mask_prompts",
    "mask_set",
    "merged_masks",
    "narrowed",
    "open_result",
    "place",
    "plan",
    "plugin_versions",
    "predict",
    "registry",
    "rehearse",
    "replacing",
    "reselect",
    "run_job",
    "run_planned",
    "save_model",
    "segment",
    "smallest_dtype",
    "usage_error",
    "weights_digest",
    "write_outputs",
]


def __getattr__(name: str) -> Any:
    if name == "xarray":
        return import_module("samplat.xarray")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'samplat' has no attribute {name!r}")
    return getattr(import_module(f"samplat.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from samplat.allocation import keep_freed_memory
    from samplat.answers import PromptedSegmenter
    from samplat.automatic import generate_masks
    from samplat.cache import CacheInfo, EmbeddingCache
    from samplat.checkpoints import (
        Model,
        ModelSpec,
        check_new_name,
        install_model,
        load_model,
        save_model,
        weights_digest,
    )
    from samplat.downloads import home
    from samplat.embedding import Embedding, EmbeddingKey
    from samplat.executors import Executor, ExecutorFactory
    from samplat.files import check_file, check_writable, replacing
    from samplat.finished import open_result
    from samplat.given import labels_result
    from samplat.grid import GridParameters
    from samplat.hookspecs import Exporter, JobKind, hookimpl
    from samplat.job import JobResult, Plan, Segmenter, SegmenterFactory, SegmentJob, plan
    from samplat.job_command import (
        ExecutorChoice,
        ExecutorName,
        JobCommand,
        JobOrder,
        SchedulerAddress,
        UsageProblem,
        Workers,
        carried_out,
        check_image,
        check_output,
        chosen_executor,
        default_job_dir,
        exporters_for,
        fitting_tiles,
        usage_error,
        write_outputs,
    )
    from samplat.machine_code import as_machine_code
    from samplat.masks import MaskSet, mask_set
    from samplat.model.mask_decoder import Draft
    from samplat.model.sam import BUILDERS, Sam, frame_size, input_scale, merged_masks
    from samplat.model.windows import Prompted, Windows
    from samplat.object_prompts import (
        FeaturePrompt,
        ObjectPrompt,
        PromptSpec,
        ScenePrompts,
        gather_prompts,
    )
    from samplat.pipeline import run_job, run_planned
    from samplat.pixels import (
        ImageInfo,
        ImageSource,
        Rescaler,
        SourceFactory,
        SourceSpec,
        Stretch,
    )
    from samplat.places import Place, RemotePath, place
    from samplat.plugins import Registry, plugin_versions, registry, segment
    from samplat.prediction import Prediction, embed, mask_prompts, predict
    from samplat.progress import Progress, choose_progress
    from samplat.prompters import Prompter
    from samplat.prompts import Prompts
    from samplat.queues import (
        MaskChange,
        PictureQueue,
        PictureWork,
        QueuedMask,
        QueuedPicture,
        QueueFactory,
        QueueStatus,
    )
    from samplat.rehearsal import Rehearsal, rehearse
    from samplat.selection import reselect
    from samplat.shapes import between_masks, mask_depth
    from samplat.shards import HOLE, narrowed, smallest_dtype
    from samplat.stack_answers import (
        SliceFound,
        StackAnswer,
        StackFollowed,
        StackFollower,
        StackSegmenter,
        StackView,
    )
    from samplat.stack_prompts import SliceMark, StackPrompts
    from samplat.stacking import StackRules
    from samplat.tiles import Tile, TileGrid, Window
    from samplat.workbench import keeping_segmenters
