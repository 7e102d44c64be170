"""Preset × dataset → images, buckets, batches, steps, rates, checkpoints, disk: the numbers before the run."""

from __future__ import annotations

from lorakit.plan.core import Bucket, Disk, Folder, LrPoint, Plan, Regularisation, ValidationPlan, plan_from
from lorakit.plan.from_preset import plan, plan_input
from lorakit.plan.inputs import Caching, PlanInput, Sampling, Saving, ScheduleInput
from lorakit.plan.naming import output_name
from lorakit.plan.network import REAL_SDXL, NetworkSize, network_size, read_base_shapes
from lorakit.plan.writes import Checkpoint, SampleMoment

__all__ = [
    "REAL_SDXL",
    "Bucket",
    "Caching",
    "Checkpoint",
    "Disk",
    "Folder",
    "LrPoint",
    "NetworkSize",
    "Plan",
    "PlanInput",
    "Regularisation",
    "SampleMoment",
    "Sampling",
    "Saving",
    "ScheduleInput",
    "ValidationPlan",
    "network_size",
    "output_name",
    "plan",
    "plan_from",
    "plan_input",
    "read_base_shapes",
]
