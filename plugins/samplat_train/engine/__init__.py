"""The paper's data engine (section 4): one project folder, three stages, retraining in between."""

from __future__ import annotations

from samplat_train.engine.assistants import Assistant, Candidate, ModelAssistant, load_assistant
from samplat_train.engine.automatic import AutomaticReport, run_automatic
from samplat_train.engine.exporting import Snapshot, export_sa1b, snapshot
from samplat_train.engine.listing import PictureEntry
from samplat_train.engine.project import Project
from samplat_train.engine.records import EventRecord, MaskRecord, PictureState, PromptRecord
from samplat_train.engine.retraining import Finetuner, Retrained, Retrainer, Round, retrain, rounds
from samplat_train.engine.session import Proposal, Session
from samplat_train.engine.settings import STAGES, ModelReference, Parameters, Settings, Stage
from samplat_train.engine.statistics import Statistics, statistics

__all__ = [
    "STAGES",
    "Assistant",
    "AutomaticReport",
    "Candidate",
    "EventRecord",
    "Finetuner",
    "MaskRecord",
    "ModelAssistant",
    "ModelReference",
    "Parameters",
    "PictureEntry",
    "PictureState",
    "Project",
    "PromptRecord",
    "Proposal",
    "Retrained",
    "Retrainer",
    "Round",
    "Session",
    "Settings",
    "Snapshot",
    "Stage",
    "Statistics",
    "export_sa1b",
    "load_assistant",
    "retrain",
    "rounds",
    "run_automatic",
    "snapshot",
    "statistics",
]
