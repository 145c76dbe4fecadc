"""Tables and figures from run folders, one module for each result. Nothing here needs a model."""
