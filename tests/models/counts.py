"""What each variant of the catalogue weighs, and who says so: `test_contract.py` counts.

A new variant needs a line in PARAMETERS. "torchvision" (0.28), "timm" (1.0) and "Darknet" (its released configurations)
are counts of these networks themselves; a paper is a count of a short second definition by its tables and figures.
"""

from __future__ import annotations

PARAMETERS: dict[str, int] = {
    # LeCun et al. 1990, section 3; LeCun et al. 1998, section II.B; the modern form of textbooks.
    "lenet_1990": 2_578,
    "lenet5": 60_000,
    "lenet5_modern": 61_706,
    # The lecture counts 338,460 before its ten outputs, which add 2,010.
    "example_net": 340_470,
    # torchvision (alexnet); Krizhevsky et al. 2012, figure 2, with its groups and without.
    "alexnet": 61_100_840,
    "alexnet_paper": 60_965_224,
    "alexnet_ungrouped": 62_378_344,
    "caffenet": 60_965_224,
    "zfnet": 62_357_608,  # Zeiler & Fergus 2014, figure 3, layer by layer
    # Lin et al. 2014, section 4, and the released Caffe definitions.
    "nin": 7_595_176,
    "nin_cifar10": 966_986,
    "nin_cifar100": 984_356,
    # torchvision.
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    # He et al. 2015, table 3, layer by layer, with a slope for each channel and hidden unit.
    "prelunet_a": 178_032_072,
    "prelunet_b": 183_343_048,
    "prelunet_c": 330_623_944,
    "prelunet_small": 1_330_858,
    # torchvision (googlenet); Szegedy et al. 2015, table 1; both with their auxiliary classifiers.
    "googlenet": 13_004_888,
    "googlenet_paper": 13_378_280,
    "googlenet_naive": 104_274_376,  # figure 2(a); its modules are counted by hand in test_googlenet.py
    # Ioffe & Szegedy 2015, figure 5; the released Caffe weights have wider poolings in 4c and 4d.
    "bn_inception": 11_204_936,
    "bn_inception_caffe": 11_295_240,
    # torchvision (v3), timm (v4, v2); Inception-ResNet-v1 by hand in test_inception_resnet.py.
    "inception_v3": 27_161_264,
    "inception_v4": 42_679_816,
    "inception_resnet_v1": 22_756_328,
    "inception_resnet_v1_face": 27_910_327,
    "inception_resnet_v2": 55_843_464,
    # torchvision; CIFAR forms: He et al. 2016, table 6 (0.27, 0.46, 0.66, 0.85, 1.7 million).
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    # The same without projections, which the plain networks do not have.
    "plain18": 11_515_688,
    "plain34": 21_623_848,
    "plain20": 269_722,
    "plain32": 464_154,
    "plain44": 658_586,
    "plain56": 853_018,
    # He et al. 2016b, table 4: 1.7, 1.7 and 10.2 million, section 5: 64.7; all by formula in test_preact_resnet.py.
    "preact_resnet18": 11_687_720,
    "preact_resnet50": 25_549_352,
    "preact_resnet101": 44_541_480,
    "preact_resnet110": 1_727_962,
    "preact_resnet152": 60_185_128,
    "preact_resnet164": 1_703_258,
    "preact_resnet200": 64_666_152,
    "preact_resnet1001": 10_327_706,
    # torchvision and timm; CIFAR forms: Xie et al. 2017, table 7 (34.4 and 68.1 million).
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x4d": 44_177_704,
    "resnext101_64x4d": 83_455_272,
    "resnext101_32x8d": 88_791_336,
    "resnext29_8x64d": 34_426_698,
    "resnext29_16x64d": 68_155_210,
    # torchvision; CIFAR forms: Huang et al. 2017, table 2 (1.0, 7.0, 27.2, 0.8, 15.3, 25.6 million).
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "densenet40_k12": 1_019_722,
    "densenet100_k12": 6_979_642,
    "densenet100_k24": 27_249_082,
    "densenet_bc100_k12": 769_162,
    "densenet_bc250_k24": 15_324_406,
    "densenet_bc190_k40": 25_624_430,
    # Darknet; darknet53 also timm.
    "darknet_reference": 7_319_416,
    "extraction": 23_437_224,
    "darknet19": 20_842_376,
    "darknet53": 41_609_928,
    "darknet53_timm": 41_609_928,
    # Iandola et al. 2016, table 1, and the released Caffe definitions.
    "squeezenet1_0": 1_248_424,
    "squeezenet1_0_caffe": 1_248_424,
    "squeezenet1_1": 1_235_496,
    # Howard et al. 2017, table 6 (4.2, 2.6, 1.3, 0.5 million); timm (mobilenet).
    "mobilenet": 4_231_976,
    "mobilenet_w75": 2_585_560,
    "mobilenet_w50": 1_331_592,
    "mobilenet_w25": 470_072,
    # torchvision.
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_small": 2_542_856,
    "mobilenet_v3_large": 5_483_032,
    "shufflenet_v2_x0_5": 1_366_792,
    "shufflenet_v2_x1_0": 2_278_604,
    "shufflenet_v2_x1_5": 3_503_624,
    "shufflenet_v2_x2_0": 7_393_996,
    # Zhang et al. 2018, table 1, unit by unit.
    "shufflenet_g1": 1_531_936,
    "shufflenet_g2": 1_733_848,
    "shufflenet_g3": 1_865_728,
    "shufflenet_g4": 1_968_344,
    "shufflenet_g8": 2_434_768,
    "xception": 22_855_952,  # timm (legacy_xception)
    # torchvision (ssd300_coco); Liu et al. 2016, figure 2.
    "ssd300": 26_285_486,
    "ssd300_coco": 35_641_826,
    "ssd512": 27_188_676,
    # Layer by layer from the papers and the release's prototxt files, of 21 outputs.
    "fast_rcnn_vgg16": 134_690_729,
    "faster_rcnn_vgg16": 137_078_239,
    "faster_rcnn_zf": 59_294_751,
    "faster_rcnn_r50_c4": 28_469_983,  # ResNet-50 without its classifier, 512 channels of proposals, 105 outputs
    # torchvision.
    "faster_rcnn_r50_fpn": 41_808_406,
    "mask_rcnn_r50_fpn": 44_454_513,
    "keypoint_rcnn_r50_fpn": 59_190_378,
    # Mousavian et al. 2017, figure 5: VGG-19 without its fully connected layers, and three heads of two hidden layers.
    "multibin_vgg19": 20_024_384
    + (25_088 * 512 + 512 + 512 * 512 + 512 + 512 * 3 + 3)
    + (25_088 * 256 + 256 + 256 * 256 + 256 + 256 * 4 + 4)
    + (25_088 * 256 + 256 + 256 * 256 + 256 + 256 * 2 + 2),
    "hourglass2": 6_570_400,
    "hourglass8": 25_434_112,
    "retinanet_r50_coco": 34_068_119,
    # Lin et al. 2017 with P6 of C5, layer by layer.
    "retinanet_r50": 37_968_692,
    "retinanet_r101": 56_960_820,
    # Girshick et al. 2014: CaffeNet and VGG-16 with 21 outputs. He et al. 2014: the classifier of 77,037,672 with 21.
    "rcnn_alexnet": 56_954_261,
    "rcnn_vgg16": 134_346_581,
    "sppnet_zf5": 73_026_709,
    # Classifiers without their last layer, and the heads by hand (test_localizer.py).
    "localizer_resnet18": 13_362_220,
    "localizer_resnet50": 27_426_348,
    "localizer_vgg16": 245_321_516,
    # Farabet et al. 2013, section 3 with full connections; Pinheiro & Collobert 2014, section 4; layer by layer.
    "patch_multiscale": 1_664_661,
    "patch_single": 65_496,
    "patch_recurrent": 119_546,
    "deconvnet": 251_805_653,  # Noh et al. 2015, section 4.1 ("about 252M"), layer by layer
    "segnet": 29_449_355,  # Badrinarayanan et al. 2017: 13 convolutions of VGG-16 with norms, 13 that mirror them
    "unet_paper": 31_030_658,  # Ronneberger et al. 2015, figure 1, layer by layer
    "yolo1": 271_716_734,  # Redmon et al. 2016, figure 3, with batch norm
    # Darknet (yolov1.cfg, yolov1-tiny.cfg).
    "yolo1_released": 197_301_875,
    "yolo1_tiny": 27_095_374,
    # Darknet (yolov2-voc.cfg, yolov2.cfg, yolov2-tiny-voc.cfg, yolov2-tiny.cfg, yolov3.cfg, -spp, -tiny).
    "yolo2": 50_655_389,
    "yolo2_coco": 50_962_889,
    "yolo2_tiny": 15_861_773,
    "yolo2_tiny_coco": 11_232_057,
    "yolo9000": 48_793_101,  # yolo9000.cfg
    "yolo3": 61_949_149,
    "yolo3_spp": 62_998_749,
    "yolo3_tiny": 8_852_366,
    # Long et al. 2015 with dense upsamplers, counted by the release; torchvision with auxiliary heads.
    "fcn32s": 136_152_917,
    "fcn16s": 134_815_994,
    "fcn8s": 134_489_759,
    "fcn_resnet50": 35_322_218,
    "fcn_resnet101": 54_314_346,
    # Forms of our own, for which nobody else has a number: as they were when they were written.
    "rfcn_r50": 31_608_639,
    "rfcn_r101": 50_600_767,
    "rfcn_small": 1_492_425,
    "sliding_window_small": 166_293,
    "sliding_window_vgg16": 134_346_581,
    "fast_rcnn_small": 2_397_833,
    "faster_rcnn_c4_small": 2_551_222,
    "faster_rcnn_small": 7_006_458,
    "rcnn_small": 1_389_093,
    "sppnet_small": 1_686_597,
    "mask_rcnn_small": 4_583_725,
    "keypoint_rcnn_small": 4_632_778,
    "hourglass_small": 491_008,
    "multibin_small": 557_081,
    "localizer_small": 3_876_492,
    "yolo1_small": 1_869_502,
    "yolo2_small": 2_487_965,
    "yolo9000_small": 2_487_965,
    "yolo3_small": 3_145_761,
    "darknet_cfg": 456_582,
    "atss_small": 3_364_064,
    "retinanet_small": 3_231_416,
    "ssd_small": 3_364_064,
    "fcn32s_small": 5_247_925,
    "fcn16s_small": 3_902_938,
    "fcn8s_small": 3_572_671,
    "deconvnet_small": 1_816_165,
    "patch_small": 60_197,
    "segnet_small": 1_157_771,
    "unet": 1_942_917,
    "unet_32": 7_763_701,
    "unet_64": 31_038_933,
    "unet_light": 3_584_021,
    "unet_resnet18": 14_322_901,
    "unet_resnet34": 24_431_061,
    "unet_resnet50": 32_515_797,
    "unet_vgg16_bn": 16_390_245,
    # Schroff et al. 2015, tables 1 and 2 (140 million and 7.5 million), layer by layer; facenet-pytorch with 1000 ids.
    "eigenfaces": 159_936,  # 50 directions and the mean of 56 x 56 pixels
    "facenet_nn1": 140_025_664,
    "facenet_nn2": 7_464_224,
    "facenet_inception_resnet": 23_994_624,
    "facenet_small": 3_093_920,
    "deepface": 118_923_774,  # Taigman et al. 2014, figure 2, layer by layer ("more than 120 million")
    "deepface_small": 2_097_342,
    "siamese_koch": 38_951_745,  # Koch et al. 2015, figure 4
    "siamese_small": 3_093_920,
}
# Multiply-adds of convolutions and linear layers for one image of the catalogue's side, of the same second counts.
MULTIPLY_ADDS: dict[str, int] = {
    "resnet18": 1_814_073_344,
    "resnet34": 3_663_761_408,
    "resnet50": 4_089_184_256,
    "resnet101": 7_801_405_440,
    "resnet152": 11_513_626_624,
    "vgg11": 7_609_090_048,
    "vgg16": 15_470_264_320,
    "vgg19": 19_632_062_464,
    "resnext50_32x4d": 4_230_479_872,
    "resnext101_32x4d": 7_969_996_800,
    "resnext101_64x4d": 15_460_270_080,
    "densenet121": 2_834_161_664,
    "densenet161": 7_727_907_072,
    "densenet169": 3_359_843_328,
    "densenet201": 4_291_365_888,
    "darknet_reference": 387_211_264,
    "extraction": 4_259_340_288,
    "darknet19": 2_790_989_824,
    "darknet53": 9_285_115_904,
    "darknet53_timm": 9_285_115_904,
    "yolo1_tiny": 1_608_015_360,
    "yolo2": 14_680_167_424,
    "yolo2_coco": 31_469_126_656,
    "yolo2_tiny": 3_485_520_896,
    "yolo2_tiny_coco": 2_703_221_248,
    "yolo9000": 24_531_022_848,
    "yolo3": 32_932_037_632,
    "yolo3_spp": 70_724_486_144,
    "yolo3_tiny": 2_782_480_896,
    "googlenet": 1_498_376_192,
    "inception_v3": 5_713_216_096,
    "inception_v4": 12_253_974_624,
    "inception_resnet_v2": 13_155_794_016,
    "squeezenet1_0": 818_924_576,
    "squeezenet1_1": 349_151_936,
    "squeezenet1_0_caffe": 832_667_936,
    "mobilenet": 568_740_352,
    "mobilenet_w75": 325_400_448,
    "mobilenet_w50": 149_497_088,
    "mobilenet_w25": 41_030_272,
    "mobilenet_v2": 300_774_272,
    "mobilenet_v3_small": 56_510_400,
    "mobilenet_v3_large": 216_589_760,
    "shufflenet_g1": 143_078_976,
    "shufflenet_g2": 140_836_512,
    "shufflenet_g3": 137_460_672,
    "shufflenet_g4": 134_339_776,
    "shufflenet_g8": 138_365_952,
    "shufflenet_v2_x0_5": 40_476_448,
    "shufflenet_v2_x1_0": 144_907_992,
    "shufflenet_v2_x1_5": 295_759_392,
    "shufflenet_v2_x2_0": 583_253_464,
    "xception": 8_357_403_496,
}
