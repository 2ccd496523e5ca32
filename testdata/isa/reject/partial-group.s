; The clip cuts a group of 32 in halves.
; expect: partial-group in launch 0 (kernel copy), instruction 1 `st b0-:v0, v1` of FI.store on PE [0, 0, 0, 0]: 48 elements are no whole groups of 32 in the tensor [/layer/Copy]
object "partial-group" target "mtia-300" hbm 128 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 out bytes 66 planes 0 64 66
  buffer b0 "x" local 128 x 1
  view v0 mxfp8 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v1 mxfp8 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<48)
  constant c0 0x0
  code:
    fill b0+:v0, c0
    st b0-:v0, v1
    halt
}

entry e0 "main" {
  output "y" u8 (48) hbm:0
  launch #0 k0 (hbm:0) o0
  code:
    launch #0
    halt
}

weights 0 {
}
