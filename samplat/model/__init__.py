"""The networks of Segment Anything; torch only, nothing else of samplat."""
