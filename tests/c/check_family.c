/* Members of the family that check_core.c does not run: the same bits on every instruction set, alone and in a batch,
 * on one thread and on many, in both precisions. Also checks the rule that gives the networks.
 *
 *   check_family digest    the features' and logits' digest of each member on every instruction set of this machine
 *   check_family large     the same for members that take longer
 *   check_family rule      which networks exist; paddings and sizes of maps */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "net/model.h"

#include "sample_models.h" /* last, because its names are short */

typedef struct member {
    double multiplier;
    int height, width;
    uint64_t float32, int8;
} member;

static const member small_members[] = {
    {0.25, 64, 64, 0xae651bb39933f0a1u, 0x054ce32fe2e2b7f4u},  /* block 0 has a residual */
    {0.35, 96, 96, 0x5059ff78fc80afc4u, 0x70539fb671353ce4u},  /* maps of 8 channels */
    {0.6, 64, 128, 0xc2b6df01071e29a4u, 0xf9f920951b6fc4c8u},  /* not square */
    {1.0, 128, 128, 0x7c15d64b6ea37ac8u, 0xbada664a87c9bfd6u}, /* float32: no block is grouped */
    {1.4, 160, 96, 0x3e39466183624b28u, 0x9b1c6f44547f3b63u},  /* more features */
    {2.0, 64, 64, 0x15105ab44804263au, 0x037636ee9dd7aaf7u},   /* the widest */
    {0.35, 33, 47, 0xcba994a344993e14u, 0x94d8797c18d85945u},  /* maps of odd height and width */
    {0.25, 65, 159, 0x4a9e9b84ed01e8bdu, 0x1db802157a433671u},
    {0.75, 32, 97, 0xff7a0b47e799b6ccu, 0xa52f93e692e04de3u}, /* last map: one row */
    {0.5, 161, 32, 0x3ec6ff9bd83a2404u, 0x91dfdd73206490d2u}, /* last map: one column */
    {1.0, 32, 32, 0x2f0e4c580b177410u, 0xc97114bb3770faabu},  /* last map: one pixel */
};

/* Common networks. */
static const member large_members[] = {
    {0.35, 224, 224, 0x6c4e322dd8dd172fu, 0x091b499dbb93676eu},
    {0.5, 160, 160, 0x0dc9e1f858533fd7u, 0xfd88aa19331e22e4u},
    {1.0, 224, 224, 0x6d88fd27f665d32eu, 0xbc60430e164b59adu},
    {1.4, 224, 224, 0x644e3af2d8a93b1fu, 0x87778687e12430efu},
};

static int failures;

static void expect(int good, const char *what) {
    if (good) return;
    printf("FAIL %.2f %dx%d: %s\n", network.multiplier, network.height, network.width, what);
    failures++;
}

/* The digest of all images' features and of one image's logits, computed in one batch on one thread. */
static uint64_t digest(const fm_model *model, float *features) {
    float logits[1001];
    forward(model, FM_UINT8, 0, IMAGES, 1, features);
    if (network.classes != 1001 || fm_logits(model, features, 1, logits) != FM_OK) abort();
    const uint64_t hash = fnv1a(0xcbf29ce484222325u, features, IMAGES * features_each * sizeof *features);
    return fnv1a(hash, logits, sizeof logits);
}

static void check_batch(const fm_model *model, const float *features, float *again, int threads) {
    const size_t n = threads % 2 ? IMAGES : 1;
    forward(model, FM_UINT8, 0, n, threads, again);
    expect(memcmp(again, features, n * features_each * sizeof *again) == 0, "on many threads");
}

/* Checks `features` in other batches and on more threads. */
static void check_ways(const fm_model *model, const float *features, float *again) {
    for (size_t i = 0; i < IMAGES; i++) {
        forward(model, FM_UINT8, i, 1, 1, again);
        expect(memcmp(again, features + i * features_each, features_each * sizeof *again) == 0, "alone");
    }
    for (int threads = 2; threads <= 5; threads++) check_batch(model, features, again, threads);
}

/* Working memory of a thread. */
static void check_memory(const fm_model *model) {
    const fm_plan *plan = &model->plan;
    const size_t maps = 2 * plan->map + (size_t)plan->group * plan->early + plan->depthwise + plan->ring;
    const size_t bytes = plan->needs.element * (maps + FM_IMAGE_ROWS * plan->image_row);
    printf("%.2f MB a thread\n", (double)bytes * 1e-6);
    expect(bytes <= 12000000, "memory of a thread");
}

static void check_member(uint64_t float32, uint64_t int8, const fm_weights *weights) {
    const int large = network.height * network.width >= 160 * 160;
    float *features = need(malloc(IMAGES * features_each * sizeof *features));
    float *again = need(malloc(IMAGES * features_each * sizeof *again));
    for (int i = 0; i < fm_isa_count(); i++) {
        const fm_isa *isa = fm_isa_at(i);
        for (int eight_bits = 0; eight_bits < 2 && fm_isa_supported(isa); eight_bits++) {
            const char *tier = eight_bits ? "int8" : "float32";
            if (fm_isa_for(tier, isa) != isa) continue;
            fm_model *model = eight_bits ? make_int8_model(isa) : make_model(isa, weights);
            const uint64_t hash = digest(model, features);
            printf("%s %s 0x%016llx\n", fm_isa_name(isa), tier, (unsigned long long)hash);
            expect(hash == (eight_bits ? int8 : float32), fm_isa_name(isa));
            check_memory(model);
            if (fm_isa_images(isa) > 1) check_ways(model, features, again);
            else if (!large) check_batch(model, features, again, 3); /* all ways would take a minute */
            fm_model_free(model);
        }
    }
    free(features);
    free(again);
}

static void check_digests(const member *members, size_t count) {
    for (size_t i = 0; i < count; i++) {
        make_network(members[i].multiplier, members[i].height, members[i].width);
        printf("%.2f %dx%d\n", network.multiplier, network.height, network.width);
        const fm_weights weights = make_weights();
        make_images();
        check_member(members[i].float32, members[i].int8, &weights);
        free_weights();
        free_images();
    }
}

/* Google's and Keras' networks: stem, stages, features. */
static void check_channels(double multiplier, const int *wanted) {
    static const int last_of_stage[] = {0, 2, 5, 9, 12, 15, 16};
    make_network(multiplier, 224, 224);
    expect(network.blocks[0].in == wanted[0] && network.blocks[0].expand == wanted[0], "outputs of the stem");
    for (int i = 0; i < 7; i++) expect(network.blocks[last_of_stage[i]].out == wanted[i + 1], "outputs of a stage");
    for (int i = 1; i < 17; i++) expect(network.blocks[i].expand == 6 * network.blocks[i].in, "expansion");
    expect(network.features == wanted[8], "features");
    expect(network.blocks[0].residual == (wanted[0] == wanted[1]), "the first block's residual");
}

/* Outputs and padding of every convolution with a 3x3 kernel, against the definition of SAME. */
static void check_same(const fm_layer *layer) {
    const int inputs[] = {layer->in_height, layer->in_width}, outputs[] = {layer->out_height, layer->out_width};
    const int before[] = {layer->pad_top, layer->pad_left};
    for (int i = 0; i < 2; i++) {
        const int odd = inputs[i] % 2;
        expect(outputs[i] == (layer->stride == 1 ? inputs[i] : (inputs[i] + odd) / 2), "outputs of a map");
        expect(before[i] == (layer->stride == 1 || odd), "padding");
    }
}

static void check_rule(void) {
    static const struct {
        double multiplier;
        int channels[9];
    } known[] = {
        {0.25, {8, 8, 8, 8, 16, 24, 40, 80, 1280}},       {0.35, {16, 8, 8, 16, 24, 32, 56, 112, 1280}},
        {0.5, {16, 8, 16, 16, 32, 48, 80, 160, 1280}},    {0.75, {24, 16, 24, 24, 48, 72, 120, 240, 1280}},
        {1.0, {32, 16, 24, 32, 64, 96, 160, 320, 1280}},  {1.3, {40, 24, 32, 40, 80, 128, 208, 416, 1664}},
        {1.4, {48, 24, 32, 48, 88, 136, 224, 448, 1792}}, {2.0, {64, 32, 48, 64, 128, 192, 320, 640, 2560}},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        check_channels(known[i].multiplier, known[i].channels);
    }
    for (int size = 32; size <= 512; size++) {
        make_network(1.0, size, 544 - size);
        for (int i = 0; i < FM_LAYERS; i++) {
            const fm_layer layer = fm_layer_info(&network, i);
            if (layer.kernel == 3) check_same(&layer);
        }
        const fm_layer head = fm_layer_info(&network, FM_LAYERS - 2);
        expect(head.in_height == (size + 31) / 32 && head.in_width == (544 - size + 31) / 32, "the last map");
    }
    static const struct {
        double multiplier;
        int height, width;
    } none[] = {{0.249, 96, 96}, {2.01, 96, 96}, {NAN, 96, 96}, {1.0, 31, 96}, {1.0, 96, 513}, {1.0, -96, 96}};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        fm_network same = network;
        const fm_status status = fm_network_make(none[i].multiplier, none[i].height, none[i].width, &same);
        expect(status == FM_NO_NETWORK && memcmp(&same, &network, sizeof same) == 0, "no such network");
    }
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "digest";
    if (strcmp(what, "digest") == 0) check_digests(small_members, sizeof small_members / sizeof small_members[0]);
    else if (strcmp(what, "large") == 0) check_digests(large_members, sizeof large_members / sizeof large_members[0]);
    else if (strcmp(what, "rule") == 0) check_rule();
    else abort();
    printf("%s: %d failures\n", what, failures);
    return failures != 0;
}
