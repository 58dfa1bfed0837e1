"""PVT v2 and the MiT encoders of SegFormer."""
