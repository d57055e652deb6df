"""Distillation of image classifiers without data: a synthesiser makes images, the student learns the teacher's answers to them."""
