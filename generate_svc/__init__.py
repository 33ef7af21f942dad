"""The generate server: NAS algorithms behind GenerateService."""
