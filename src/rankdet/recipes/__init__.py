"""Every experiment by name, and the model of a recipe. Importing this imports neither torch nor torchvision."""

from rankdet.extras import require

require(__name__)

from .library import RECIPES
from .loading import dump, load_recipe
from .schema.recipe import Recipe, validated

__all__ = ["RECIPES", "Recipe", "dump", "load_recipe", "validated"]
