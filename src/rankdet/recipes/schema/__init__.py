"""The model of a recipe: every field, its type and its default."""
