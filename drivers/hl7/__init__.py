"""HL7 v2 over MLLP: every byte of it is made and read in this package."""
