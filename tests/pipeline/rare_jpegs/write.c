/* Writes the JPEGs of this folder, which no Python library here can write. Needs libjpeg-turbo 3:
       cc write.c -ljpeg -o write && for kind in arithmetic arithmetic_progressive three_scans ycck twelve_bits lossless; do
           ./write $kind > $kind.jpg; done
   Each shows four quadrants in the colours of COLOURS in tests/pipeline/image_files.py. */
#include <stdio.h>
#include <string.h>
#include <jpeglib.h>

enum { WIDTH = 64, HEIGHT = 32 };
static const unsigned char COLOURS[4][3] = {{200, 40, 40}, {40, 160, 60}, {30, 60, 200}, {230, 210, 60}};
static const jpeg_scan_info ONE_SCAN_EACH[3] = {
    {1, {0}, 0, 63, 0, 0}, {1, {1}, 0, 63, 0, 0}, {1, {2}, 0, 63, 0, 0}};

static void write_row(struct jpeg_compress_struct *jpeg, int y) {
    unsigned char row[WIDTH * 4];
    short wide[WIDTH * 4];
    for (int x = 0; x < WIDTH; x++)
        for (int plane = 0; plane < jpeg->input_components; plane++) {
            const unsigned char *colour = COLOURS[(x >= WIDTH / 2) + 2 * (y >= HEIGHT / 2)];
            int at = x * jpeg->input_components + plane;
            row[at] = plane == 3 ? 255 : colour[plane];  /* black is inverted, as Adobe has it */
            wide[at] = row[at] * 4095 / 255;
        }
    unsigned char *rows = row;
    short *wide_rows = wide;
    if (jpeg->data_precision == 12)
        jpeg12_write_scanlines(jpeg, &wide_rows, 1);
    else
        jpeg_write_scanlines(jpeg, &rows, 1);
}

int main(int count, char **words) {
    const char *kind = count > 1 ? words[1] : "";
    int cmyk = !strcmp(kind, "ycck");
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_stdio_dest(&jpeg, stdout);
    jpeg.image_width = WIDTH, jpeg.image_height = HEIGHT;
    jpeg.input_components = cmyk ? 4 : 3, jpeg.in_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_set_defaults(&jpeg);
    if (cmyk) jpeg_set_colorspace(&jpeg, JCS_YCCK);
    if (!strcmp(kind, "twelve_bits")) jpeg.data_precision = 12;
    if (!strcmp(kind, "lossless")) jpeg_enable_lossless(&jpeg, 1, 0);
    else jpeg_set_quality(&jpeg, 95, TRUE);
    jpeg.arith_code = !strncmp(kind, "arithmetic", 10);
    if (!strcmp(kind, "arithmetic_progressive")) jpeg_simple_progression(&jpeg);
    if (!strcmp(kind, "three_scans")) jpeg.scan_info = ONE_SCAN_EACH, jpeg.num_scans = 3;
    jpeg_start_compress(&jpeg, TRUE);
    for (int y = 0; y < HEIGHT; y++) write_row(&jpeg, y);
    jpeg_finish_compress(&jpeg);
    return 0;
}
