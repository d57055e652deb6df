"""What a model is told to remember beside its weights: how it is stored and put in the model's way; one file per kind of memory."""
