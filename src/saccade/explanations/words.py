"""What the pictures of an explanation mean, and what they do not, in plain words."""

from __future__ import annotations

METHODS: dict[str, str] = {  # name on the command line -> title of its picture
    "grad_cam": "Grad-CAM",
    "occlusion": "occlusion",
    "saliency": "gradient",
    "features": "feature maps",
    "stages": "stages",
}
UNITS: dict[str, str] = {  # of the colour bar
    "grad_cam": "evidence for it",
    "occlusion": "fall of the score",
    "saliency": "change of the raw score",
}
SIGNED = {"occlusion"}
ENDS: dict[str, float] = {"saliency": 0.995}  # share of the values below the end of the scale: a few are far above

MEANINGS: dict[str, str] = {
    "grad_cam": "Grad-CAM (Selvaraju et al. 2017): where the layer named with each image holds what speaks for the "
    "class. Each map of that layer is weighted by the mean gradient of the score, and what speaks against the class is "
    "left out. The maps are coarse: a cell stands for many pixels and is drawn smooth, so the border of a spot means "
    "nothing.",
    "occlusion": "Occlusion (Zeiler & Fergus 2014): a gray patch moves over the image. Red: the score falls where the "
    "patch covers a place, so the network needs it. Blue: the score rises, so this place speaks against the answer. "
    "A gray patch is itself a picture that the network has not seen, and what is repeated in the image is not missed.",
    "saliency": "Gradient (Simonyan et al. 2014): how much the raw score would change if this pixel changed a little. "
    "It is noisy and follows edges; it says where the network is sensitive, not whether for or against the answer. The "
    "strongest 0.5 % of the pixels share the end of the scale.",
    "features": "Feature maps: the channels of a layer that respond most to this image, each from least (black) to "
    "largest value (white), in the frame of the network's input. Channels have no names: what one responds to shows "
    "only over many images.",
    "stages": "Stages (detectors): the boxes that the network goes through on the way to its answer, in the order of "
    "its paper: what it is given or proposes, which anchors would learn the found objects, how the surest region is "
    "divided, what stands before suppression, the first steps of it, and the answer. Of many boxes the first 60 are "
    "drawn, of the answer those from the thresholds of the run on; white ones have no class.",
}
LIMITS = (
    "The pictures say what this network used for this answer, not what is true of the object, and not that the answer "
    "is right. A hot background is a warning: the network may have learned the surroundings. The scale of every map is "
    "its own: compare places within a picture, and pictures only by the numbers on their colour bars."
)
CUT = "The dark border was cut off before the network saw the image: nothing there can have played a part."
NO_HEAT = "nowhere: nothing speaks for it"
NO_GRADIENT = (
    "Grad-CAM and gradient are left out: the boxes of a detector come from choices (best anchors, suppression of "
    "neighbours) that have no gradient. "
)
OF_BOXES = (
    "Occlusion shows how far the best box of the class that overlaps the framed one falls in score times overlap "
    "(Petsiuk et al. 2021)."
)
OF_JOINTS = (
    "Occlusion shows how far the joint falls: its confidence, times the overlap of the best box with the framed one, "
    "times how near the joint stays to its place."
)
OF_CUBOIDS = (
    "Occlusion shows how far the box in space moves: by how much its overlap (IoU) with that of the picture as it is "
    "falls below 1."
)
OF_ONE_BOX = (
    "Occlusion shows how far the probability of the class falls, times the overlap of the box with the one that the "
    "network gives for the picture as it is."
)
OF_VECTORS = (
    "What is explained is how alike two pictures are to the network: of several pictures each is compared with the "
    "others, of one alone the covered picture with the whole. Red: what makes them alike. The slope of this score, on "
    "which Grad-CAM and gradient rest, is 0 where a picture is compared with itself; they are left out."
)
