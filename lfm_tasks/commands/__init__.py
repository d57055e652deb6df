"""The commands of ``lfm``, a few to a module; each module adds its own options and imports what is heavy when called."""

from lfm_tasks.commands import jobs, ledger, lineage, machine, replay, store

COMMANDS = (jobs, lineage, ledger, replay, store, machine)
