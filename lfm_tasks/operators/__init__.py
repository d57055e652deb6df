"""Airflow operators, one per step; ``step_params`` makes a DAG's form from the steps' configs."""

from lfm_tasks.operators.approve import ApproveOperator, AskOperator
from lfm_tasks.operators.finish import FinishRunOperator
from lfm_tasks.operators.merging import (
    CompareOperator,
    PlanEvaluationsOperator,
    PlanGatesOperator,
    PlanMergeOperator,
    PlanMergesOperator,
    PlanMixturesOperator,
    PlanStatisticsOperator,
)
from lfm_tasks.operators.produced import FindModelsOperator
from lfm_tasks.operators.reap import ReapOperator, TidyOperator
from lfm_tasks.operators.searching import PlanSearchesOperator, PlanSearchEvaluationsOperator, PlanSearchOperator
from lfm_tasks.operators.steps import (
    AlignOperator,
    ConnectOperator,
    EnsembleOperator,
    EvaluateOperator,
    GateOperator,
    MergeAdaptersOperator,
    MergeOperator,
    MixOperator,
    NoveltyOperator,
    PrepareGeneralOperator,
    PrepareOperator,
    PromoteOperator,
    RestackOperator,
    RollbackOperator,
    SearchMergeOperator,
    StatisticsOperator,
    TuneOperator,
    UnloadOperator,
)
from lfm_tasks.operators.sweep import PlanSweepOperator, SelectOperator

__all__ = [
    "AlignOperator",
    "ApproveOperator",
    "AskOperator",
    "CompareOperator",
    "EnsembleOperator",
    "ConnectOperator",
    "EvaluateOperator",
    "FindModelsOperator",
    "FinishRunOperator",
    "GateOperator",
    "MergeAdaptersOperator",
    "MergeOperator",
    "MixOperator",
    "NoveltyOperator",
    "PlanEvaluationsOperator",
    "PlanGatesOperator",
    "PlanMergeOperator",
    "PlanMergesOperator",
    "PlanMixturesOperator",
    "PlanSearchEvaluationsOperator",
    "PlanSearchOperator",
    "PlanSearchesOperator",
    "PlanStatisticsOperator",
    "PlanSweepOperator",
    "PrepareGeneralOperator",
    "PrepareOperator",
    "PromoteOperator",
    "ReapOperator",
    "RestackOperator",
    "RollbackOperator",
    "SearchMergeOperator",
    "SelectOperator",
    "StatisticsOperator",
    "TidyOperator",
    "TuneOperator",
    "UnloadOperator",
]
