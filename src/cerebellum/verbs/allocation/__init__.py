"""The best file of a given size: weight errors, anchors, candidate recipes, refinement, controls, proof."""
