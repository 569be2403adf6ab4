"""Why a real forward pass is slower than a single transfer suggests: measured, and explained by a model."""
