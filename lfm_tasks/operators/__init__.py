"""Airflow operators, one per step; ``step_params`` makes a DAG's form from the steps' configs."""

from lfm_tasks.operators.approve import ApproveOperator, AskOperator
from lfm_tasks.operators.finish import FinishRunOperator
from lfm_tasks.operators.merging import CompareOperator, PlanEvaluationsOperator, PlanGatesOperator, PlanMergeOperator
from lfm_tasks.operators.produced import FindModelsOperator
from lfm_tasks.operators.reap import ReapOperator, TidyOperator
from lfm_tasks.operators.steps import (
    EvaluateOperator,
    GateOperator,
    MergeOperator,
    NoveltyOperator,
    PrepareGeneralOperator,
    PrepareOperator,
    PromoteOperator,
    RollbackOperator,
    SearchMergeOperator,
    TuneOperator,
)
from lfm_tasks.operators.sweep import PlanSweepOperator, SelectOperator

__all__ = [
    "ApproveOperator",
    "AskOperator",
    "CompareOperator",
    "EvaluateOperator",
    "FindModelsOperator",
    "FinishRunOperator",
    "GateOperator",
    "MergeOperator",
    "NoveltyOperator",
    "PlanEvaluationsOperator",
    "PlanGatesOperator",
    "PlanMergeOperator",
    "PlanSweepOperator",
    "PrepareGeneralOperator",
    "PrepareOperator",
    "PromoteOperator",
    "ReapOperator",
    "RollbackOperator",
    "SearchMergeOperator",
    "SelectOperator",
    "TidyOperator",
    "TuneOperator",
]
