"""The demo: both stages on the small world, and the report on them."""
