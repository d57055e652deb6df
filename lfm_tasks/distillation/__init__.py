"""Distillation: a student learns from a teacher's answers, states or nothing but its weights."""
