"""Charts as inline SVG, made by hand: no script, no font, no file beside the page."""
