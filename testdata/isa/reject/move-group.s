; Half a group moves.
; expect: partial-group in launch 0 (kernel copy), instruction 1 `move b1+:v4, b0-:v3` of MLU on PE [0, 0, 0, 0]: element 16 starts within a group of 32 in the source [/layer/Copy]
object "move-group" target "mtia-300" hbm 256 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 out bytes 256 planes 0 256 256
  buffer b0 "x" local 256 x 2
  buffer b1 "y" local 256 x 2
  view v0 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v1 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v2 mxfp8 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v3 mxfp8 local k4 offset 16 (1:32, 1:32, 1:32, 1:32, 32:1)
  view v4 mxfp8 local k4 offset 0 (1:32, 1:32, 1:32, 1:32, 32:1)
  constant c0 0x0
  code:
    fill b0+:v2, c0
    move b1+:v4, b0-:v3
    pop b1, n=1
    fill b1+:v0, c0
    st b1-:v0, v1
    halt
}

entry e0 "main" {
  output "y" f32 (64) hbm:0
  launch #0 k0 (hbm:0) o0
  code:
    launch #0
    halt
}

weights 0 {
}
