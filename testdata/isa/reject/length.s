; More instructions than anybody waits for.
; expect: length in launch 0 (kernel copy): up to 3000002000004 dynamic instructions on a PE [/layer/Copy]
object "length" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 in bytes 256 planes 0 256 256
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 256 x 2
  view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v2 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  trip t0 1000000 max 1000000
  code:
    loop t0, l0, stages=1
    loop t0, l1, stages=1
    ld b0+:v2, v0
    pop b0, n=1
    end
    end
    ld b0+:v2, v0
    st b0-:v2, v1
    halt
}

entry e0 "main" {
  input "x" f32 (64) hbm:0
  output "y" f32 (64) hbm:256
  launch #0 k0 (hbm:0, hbm:256) o0
  code:
    launch #0
    halt
}

weights 0 {
}
