"""The lineage page inside Airflow's UI: a read-only JSON API over the store and the ledger, and the page that draws it."""
