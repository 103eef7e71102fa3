"""Per-example gradients of single layers, by formula or by replaying the layer."""
