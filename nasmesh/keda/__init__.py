"""Generated from KEDA's contract of an external scaler (protos/nasmesh/keda)."""
