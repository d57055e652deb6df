"""Airflow operators, one per step; ``step_params`` makes a DAG's form from the steps' configs."""

from lfm_tasks.operators.finish import FinishRunOperator
from lfm_tasks.operators.reap import ReapOperator
from lfm_tasks.operators.steps import EvaluateOperator, GateOperator, PrepareOperator, PromoteOperator, TuneOperator

__all__ = ["EvaluateOperator", "FinishRunOperator", "GateOperator", "PrepareOperator", "PromoteOperator", "ReapOperator", "TuneOperator"]
