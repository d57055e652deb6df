"""Learn from models: tune, distil, reuse, meta-learn and edit foundation models as traceable workflow steps."""

__version__ = "0.1.0"
