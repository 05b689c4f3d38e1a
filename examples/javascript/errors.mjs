// What can go wrong that is no fault of the program: each message names the thing, the rule and the next step.

export class BundleError extends Error {}

export class NoBundleError extends Error {}

export class ExpertError extends Error {}

export class BudgetError extends Error {}

export class ImageError extends Error {}

export class UnknownTaskError extends Error {}
