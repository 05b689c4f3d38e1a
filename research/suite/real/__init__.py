"""Ten tasks of real images: scans, photographs, fonts, emoji, flags and icons of packages, with whole sources held out."""
