"""The local stream: small networks trained on injuries that are painted into the normal scans of a training part."""
