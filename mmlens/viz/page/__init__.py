"""The viewer: one self-contained piece of HTML that every result fills with what it has."""
