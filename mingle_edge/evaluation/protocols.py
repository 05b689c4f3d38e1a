"""What the application tells besides the image, by the letters that tables use. Needs no torch."""

HEAD_GIVEN, TASK_GIVEN, NOTHING_GIVEN = PROTOCOLS = ("P1", "P2", "P3")
"""P1: the head is given, the route is not (the paper's). P2: head and task are given. P3: nothing is given, the labels of all
tasks compete."""

GIVEN = {HEAD_GIVEN: "head given", TASK_GIVEN: "head and task given", NOTHING_GIVEN: "nothing given"}
"""What tables say of each."""
