"""Rows of raw data sets, and templates that are filled from them: what every area that begins with rows shares."""
